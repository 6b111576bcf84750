"""The study file and the runs that it stands for."""

from pathlib import Path

import pytest

from tapo_core.advantages import mean_and_std
from tapo_core.config_file import parse_config, read_toml, write_toml
from tapo_core.errors import ConfigError, UserError
from tapo_core.nano.prepare import write_problems
from tapo_core.study.config import load_study
from tapo_core.study.plan import matching, plan_runs
from tests.study.made_runs import STUDY, write_study

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_shipped_study_is_valid_also_when_it_is_quick(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    runs = plan_runs(study, str(path))
    quick = plan_runs(study.made_quick(), str(path), study.quick.set)
    assert len({run.name for run in runs}) == len(runs) >= len(quick) > 0
    assert all(run.config.run.iterations >= study.study.steps for run in runs)
    assert {run.config.nano.seed for run in runs} == {0}
    for nano in {run.config.nano for run in (*runs, *quick)}:
        write_problems(nano, tmp_path)  # raises if its levels have too few


def test_the_study_of_the_paper_has_what_it_is_to_have() -> None:
    study = load_study(ROOT / "configs" / "studies" / "paper_tables.toml")
    runs = plan_runs(study, "paper")
    for variant in ("tapo", "grpo"):
        cells = {(r.family, r.policy) for r in runs if r.variant == variant and r.seed in study.study.seeds}
        assert cells == {(f, p) for f in ("chain", "equation") for p in ("cold", "base")}
        assert len({r.seed for r in runs if r.variant == variant}) >= 5
    assert {r.config.nano.construction_share for r in runs if r.policy == "base"} == {0.0}
    by_variant = {r.variant: r.config for r in runs if r.policy == "cold"}
    assert by_variant["merged"].advantage.constructed_scope == "merged"
    assert by_variant["full"].correction.mode == "full_reconstruction"
    assert not by_variant["no_ots"].token_weight.enabled
    assert not by_variant["masked"].update.train_prefix
    assert (by_variant["no_dcs"].filter.n_pos, by_variant["no_dcs"].filter.n_neg) == (1, 1)
    scopes = {by_variant[name].advantage.constructed_scope for name in ("tapo", "scope_query", "scope_batch")}
    assert scopes == {"original", "query", "batch"}
    n = by_variant["std_floor"].sampler.rollouts_per_query
    assert by_variant["std_floor"].advantage.std_floor > mean_and_std([1.0] + [0.0] * (n - 1))[1], (
        "or it changes nothing"
    )
    sft = by_variant["sft"]
    assert (sft.update.constructed_loss, sft.advantage.constructed_scope) == ("log_likelihood", "raw")
    assert sft.filter.require_correct
    assert not sft.token_weight.enabled
    weights = {by_variant[name].update.lambda_constructed for name in ("tapo", "lambda_quarter")}
    assert weights == {1.0, 0.25}


LAYERS = """
[study]
name = "layers"
base = "base.toml"
seeds = [7, 8]
steps = 4
set.update = { learning_rate = 1e-3, epochs = 2 }
set.evaluation.every = 2

[families.a]
set.nano.levels = [1]
[families.b]
set.nano.levels = [2]
[policies.p]
set.update.epochs = 3
[variants.x]
[variants.y]
set.update.epochs = 4
families = ["b"]
seeds = [8, 9]
steps_factor = 1.3

[quick]
seeds = [1]
steps = 2
families = ["b"]
set.update.minibatches = 2
"""


def test_settings_are_laid_over_each_other_and_the_first_seed_comes_whole_before_the_second(tmp_path: Path) -> None:
    file = write_study(
        tmp_path, LAYERS, '[run]\nname = "base"\nseed = 99\n[update]\nlearning_rate = 1.0\nclip_low = 0.1\n'
    )
    runs = plan_runs(load_study(file), str(file))
    names = ["a-p-x-s7", "b-p-x-s7", "a-p-x-s8", "b-p-x-s8", "b-p-y-s8", "b-p-y-s9"]
    assert [run.name for run in runs] == names
    x, y = runs[1].config, runs[4].config
    assert (x.update.clip_low, x.update.learning_rate, x.update.epochs, x.nano.levels) == (0.1, 1e-3, 3, (2,))
    assert (y.update.epochs, y.run.seed, y.run.iterations) == (4, 8, 6), "4 x 1.3, rounded up to an evaluation"
    assert (x.run.name, x.run.seed, x.run.iterations) == ("b-p-x-s7", 7, 4)
    assert x.run_folder == Path("runs/studies/layers/b-p-x-s7")
    assert [run.name for run in matching(runs, "b-*-s8")] == ["b-p-x-s8", "b-p-y-s8"]
    with pytest.raises(UserError, match="--only z: no run is called like that"):
        matching(runs, "z")
    study = load_study(file)
    quick = plan_runs(study.made_quick(), str(file), study.quick.set)
    assert [run.name for run in quick] == ["b-p-x-s1", "b-p-y-s1"]
    assert quick[0].folder == Path("runs/studies/layers-quick/b-p-x-s1")
    assert [run.config.run.iterations for run in quick] == [2, 4]
    assert {run.config.update.minibatches for run in quick} == {2}


def test_the_file_of_a_run_says_what_was_planned(tmp_path: Path) -> None:
    file = write_study(tmp_path)
    for run in plan_runs(load_study(file), str(file)):
        written = tmp_path / "run.toml"
        written.write_text("\n".join(write_toml(run.tree)))
        assert parse_config(read_toml(written), "written") == run.config
    tree = {"a b": {"c": [{"x": 1, "y": {"z": 'é\x7f\n𝄞"\\'}}, 2.5, 1e-7, True]}, "e": {}, "s": {"t": {"u": [[1], []]}}}
    written.write_text("\n".join(write_toml(tree)))
    assert read_toml(written) == tree


def test_settings_are_the_same_whatever_operates_the_run_or_how_long_it_is(tmp_path: Path) -> None:
    def digests(text: str) -> list[str]:
        file = write_study(tmp_path, text)
        return [run.settings_digest for run in plan_runs(load_study(file), str(file))]

    before = digests(STUDY)
    assert len(set(before)) == len(before) == 4
    assert digests(STUDY.replace("steps = 2", "steps = 3")) == before
    assert digests(STUDY.replace('name = "made"', 'name = "made"\nset.limits.retries = 9')) == before
    assert set(digests(STUDY.replace('name = "made"', 'name = "made"\nset.update.epochs = 9'))).isdisjoint(before)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("seeds = [0, 1]", "seeds = []", "study.seeds: "),
        ("seeds = [0, 1]", "seed = [0]", "unknown key study.seed (did you mean study.seeds?)"),
        ("[families.chain]", "[families.chain-1]", "families.chain-1"),
        ('second = "grpo"', 'second = "gpro"', "comparisons.0: there is no gpro; there are tapo, grpo"),
        ('"grpo"]', '"x"]', "study.curves: there is no x"),
        ('set.method = "grpo"', 'set.method = "gpro"', "run chain-cold-grpo-s0: method: "),
        ('set.method = "grpo"', "set.run.seed = 1", "variants.grpo.set: run.name, run.seed and run.iterations are made"),
        ("every = 1", "every = 3", "evaluation.every = 3 does not divide study.steps = 2"),
        ('base = "base.toml"', 'base = "gone.toml"', "gone.toml: cannot read"),
        ("[policies.cold]", "[policies.cold]\nset.updte.epochs = 1", "unknown key updte"),
        ("steps = 2", "steps = 2 3", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_bad_study_is_one_line_that_names_file_and_key(tmp_path: Path, before: str, after: str, says: str) -> None:
    assert before in STUDY
    file = write_study(tmp_path, STUDY.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        plan_runs(load_study(file), str(file))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
