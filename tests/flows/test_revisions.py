"""A run whose settings are changed while it is under way, on the real engines."""

import json
from pathlib import Path

import pytest
import torch

import tapo_core.cli.runs
import tasks.resources
from flows.evaluate import evaluate_policy
from flows.train import train
from tapo_core.cli.runs import check_changes, resume_with_progress, rewind
from tapo_core.comparison import differing_settings
from tapo_core.config import TapoConfig
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.errors import ConfigError, DataError, StageGaveUpError, UserError
from tapo_core.ids import digest
from tapo_core.progress import reporting
from tapo_core.records import ConfigChange, Evaluation, Query, Rollout, RolloutKind, Run, UpdateMetric
from tapo_core.replay import replay
from tapo_core.resume import forked, resumable
from tapo_core.store import StageCommit, lineage, load, query, verified_commits
from tapo_core.store.audit import verify
from tests.flows.conftest import Configure, StopAt

pytestmark = pytest.mark.usefixtures("prefect_server")

GRPO = (
    'method="grpo"',
    "limits.retries=0",
    "update.warmup_steps=0",
    "update.learning_rate=1e-4",
    "update.keep_optimizer_states=9",
)


def digests(folder: Path) -> dict[tuple[int, str], str]:
    return {(commit.iteration, commit.stage): commit.config_digest for commit in verified_commits(folder)}


def rates(folder: Path) -> dict[int, float]:
    return {row.iteration: row.value for row in load(folder, UpdateMetric, name="learning_rate")}


def stages(commits: list[StageCommit]) -> list[tuple[int, str]]:
    return [(commit.iteration, commit.stage) for commit in commits]


@pytest.fixture
def config(configure: Configure) -> TapoConfig:
    return configure("changed", *GRPO)


def test_a_run_without_enough_memory_goes_on_with_smaller_micro_batches(
    config: TapoConfig, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = config.run_folder
    train(config)
    before = verified_commits(folder)
    original = OpenRlhfTrainer._forward

    def forward(self: OpenRlhfTrainer, ids: torch.Tensor, *args: object, **kwargs: object) -> object:
        if ids.numel() > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, ids, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(OpenRlhfTrainer, "_forward", forward)
    with pytest.raises(StageGaveUpError, match=rf"tapo resume {folder} --set update\.micro_batch_tokens=\d+\."):
        resume_with_progress(folder, 2)
    n_sampled = len(load(folder, Rollout, iteration=2))
    resume_with_progress(folder, None, ["update.micro_batch_tokens=900"])
    after = verified_commits(folder)
    assert after[: len(before)] == before
    assert stages(after[len(before) :]) == [
        *((1, "operation-1"), (2, "sample"), (2, "verify"), (2, "filter_by_difficulty")),
        *((2, "operation-2"), (2, "update_policy"), (2, "evaluate")),
    ]
    assert {commit.config_digest for commit in after} == {config.digest}
    assert len([r for r in load(folder, Rollout, iteration=2) if r.kind is RolloutKind.TRAINING]) == n_sampled
    assert [c.manifest["micro_batch_tokens"] for c in after if c.stage == "update_policy"] == [2048, 900]
    found = query(
        folder, "SELECT key, old_value, new_value, first_iteration, revision FROM changed_key ORDER BY number"
    )
    assert found.to_numpy().tolist() == [
        ["run.iterations", "1", "2", 2, 1],
        ["update.micro_batch_tokens", "2048", "900", 2, 1],
    ]
    assert resumable(folder)[0].update.micro_batch_tokens == 900
    # The same run by its configuration file, with other values of keys that operate it: nothing is refused or made again.
    other = ["evaluation.samples=1", "sampler.kv_cache_gib=0.5", "update.micro_batch_tokens=800", "run.iterations=2"]
    assert train(configure("changed", *GRPO, *other))["digest"] == after[-2].chain_digest
    assert stages(verified_commits(folder)[len(after) :]) == [(2, "operation-3")]
    assert verify(folder).faults == []


def test_a_revision_applies_from_an_iteration_on(
    config: TapoConfig,
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = config.run_folder
    stop = StopAt(2, "verify")
    with pytest.raises(KeyboardInterrupt), reporting(stop):
        train(configure("changed", *GRPO, "run.iterations=3"))
    before = verified_commits(folder)
    changes = ["update.learning_rate=2e-3", "sampler.max_new_tokens=40", 'verifier.fallback="none"']

    with monkeypatch.context() as patch:
        for module in (tapo_core.cli.runs, tasks.resources):
            patch.setattr(module, "resolve_assets", lambda *_: pytest.fail("a model was built"))
        for start in (train, lambda c: tapo_core.cli.runs.train_with_progress(c, "")):
            with pytest.raises(ConfigError) as refused:
                start(configure("changed", *GRPO, *changes))
            for part in (
                "update.learning_rate is 0.0001 there and 0.002 here",
                "sampler.max_new_tokens is 48 there and 40 here",
                f"tapo resume {folder} --set sampler.max_new_tokens=40 --set 'verifier.fallback=\"none\"' --set",
                "another run.name",
                f"tapo fork {folder} NEW_NAME --set",
            ):
                assert part in str(refused.value)
            assert "delete" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"run\.seed 0 -> 7 \(it cannot be changed: every draw .*tapo fork"):
        check_changes(folder, None, ["run.seed=7"], None)
    with pytest.raises(ConfigError, match=r"run\.name cannot be changed: it says which run it is"):
        check_changes(folder, None, ["run.name=other"], None)
    with pytest.raises(UserError, match="--from sample"):
        check_changes(folder, "verify", changes, None)
    with pytest.raises(UserError, match="--reason is stored with a revision"):
        check_changes(folder, None, ["update.micro_batch_tokens=99"], "why not")
    assert verified_commits(folder) == before

    resume_with_progress(folder, None, changes, "too slow")
    told = " ".join(capfd.readouterr().err.split())
    assert "revision 2 of the configuration, from iteration 3 on:" in told
    assert "iteration 2 has begun, and ends under revision 1" in told
    after = verified_commits(folder)
    assert after[: len(before)] == before
    revised = resumable(folder)[0].digest
    assert revised != config.digest
    expected = {
        place: revised if place[0] == 3 or "revision" in place[1] else config.digest for place in digests(folder)
    }
    assert digests(folder) == expected
    assert rates(folder) == {1: 1e-4, 2: 1e-4, 3: 2e-3}
    assert {row.max_new_tokens for row in load(folder, Rollout, iteration=3)} == {40}
    steps = query(folder, "SELECT optimizer_steps FROM policy_version ORDER BY iteration")["optimizer_steps"].tolist()
    assert steps == [0, 1, 2, 3], "the optimizer goes on"
    (change,) = load(folder, ConfigChange)
    assert (change.revision, change.first_iteration, change.reason) == (2, 3, "too slow")
    assert json.loads(change.changes)[-1] == {"key": "update.learning_rate", "old": 1e-4, "new": 2e-3}

    why = query(folder, "SELECT DISTINCT iteration, revision, config_digest FROM why_in_batch ORDER BY iteration")
    assert why.to_numpy().tolist() == [[1, 1, config.digest], [2, 1, config.digest], [3, 2, revised]]
    summary = query(folder, "SELECT iteration, revision FROM iteration_summary ORDER BY iteration")
    assert summary.to_numpy().tolist() == [[1, 1], [2, 1], [3, 2]]
    spans = query(folder, "SELECT revision, first_iteration, last_iteration FROM config_revision ORDER BY revision")
    assert spans.fillna(-1).to_numpy().tolist() == [[1, 0, 2], [2, 3, -1]]
    rollout = load(folder, Rollout, iteration=3)[0]
    assert "revision 2 of the configuration" in lineage(folder, rollout.rollout_id).nodes[change.change_id].label
    assert change.change_id not in lineage(folder, load(folder, Rollout, iteration=2)[0].rollout_id).nodes
    assert lineage(folder, change.change_id).descendants
    other = configure("other", *GRPO, "run.iterations=1")
    train(other)
    differing = differing_settings(other.run_folder, folder).set_index("setting")
    assert differing.loc["update.learning_rate"].tolist() == ["0.0001", "0.0001; from iteration 3: 0.002"]
    assert verify(folder).faults == []
    assert replay(folder).differences == []

    fork = forked(folder, "fork", 2)
    assert (fork.update.learning_rate, forked(folder, "fork").update.learning_rate) == (1e-4, 2e-3)
    rewind(folder, None, 2)
    assert "the configuration is revision 1 again" in " ".join(capfd.readouterr().err.split())
    assert resumable(folder)[0].update.learning_rate == 1e-4


def test_benchmarks_are_added_and_evaluated_beside_what_was(
    config: TapoConfig, configure: Configure, tmp_path: Path
) -> None:
    folder = config.run_folder
    train(config)
    before = {row.evaluation_id: row for row in load(folder, Evaluation)}
    queries = load(folder, Query)
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"problem": queries[0].text, "answer": queries[0].gold}) + "\n")
    added = [f'evaluation.datasets={{bench="{bench}"}}', "evaluation.samples=3", "evaluation.temperature=0.5"]
    evaluated = evaluate_policy(configure("changed", *GRPO, *added))
    assert evaluated["stage"] == "evaluate-2"
    rows = {row.evaluation_id: row for row in load(folder, Evaluation)}
    assert before.items() <= rows.items()
    new = {(row.dataset, row.n_samples, row.temperature, row.again) for key, row in rows.items() if key not in before}
    assert new == {("bench", 3, 0.5, 2), ("held_out", 3, 0.5, 2)}
    assert evaluated["manifest"]["datasets"]["bench"] == {
        **{"queries": None, "samples": 3, "temperature": 0.5},
        **{"confidence": config.evaluation.confidence, "resamples": config.evaluation.resamples},
    }
    newest = query(
        folder, "SELECT iteration, n_samples FROM newest_evaluation WHERE metric = 'pass@1' AND dataset = 'held_out'"
    )
    assert sorted(newest.to_numpy().tolist()) == [[0, 2], [1, 3]]
    (overlap,) = query(folder, "SELECT other_split, dropped FROM query_overlap").to_numpy().tolist()
    assert overlap == ["bench", False]
    n_commits = len(verified_commits(folder))
    assert evaluate_policy(configure("changed", *GRPO, *added))["digest"] == evaluated["digest"], "not sampled again"
    assert len(verified_commits(folder)) == n_commits
    assert resumable(folder)[0].evaluation == config.evaluation, "to evaluate does not operate the run"

    resume_with_progress(folder, 2, added[:1])
    assert {row.dataset for row in load(folder, Evaluation, iteration=2)} == {"bench", "held_out"}
    assert {row.n_samples for row in load(folder, Evaluation, iteration=2)} == {2}
    assert verify(folder).faults == []
    assert replay(folder).differences == []
    train(configure("changed", *GRPO, "run.iterations=2"))  # without the benchmark, which the store keeps
    bench.write_text(json.dumps({"problem": "Start with 1. Add 1. What is the result?", "answer": "2"}) + "\n")
    with pytest.raises(DataError, match=r"evaluation\.datasets\.bench: 2 problems differ .* another name"):
        train(configure("changed", *GRPO, "run.iterations=2", added[0]))


def test_a_run_of_an_older_version_goes_on_under_the_digest_that_it_has(
    config: TapoConfig, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions took keys into the digest that only operate a run, and made the run's id from that digest."""
    folder = config.run_folder
    with monkeypatch.context() as patch:
        patch.setattr(TapoConfig, "digest", property(lambda self: digest(self.model_dump(mode="json"))))
        old = config.digest
        train(config)
    (run,) = load(folder, Run)
    assert run.config_digest == old != config.digest
    resume_with_progress(folder, 2, ["update.micro_batch_tokens=900"])
    assert {commit.config_digest for commit in verified_commits(folder)} == {old}
    assert {commit.run_id for commit in verified_commits(folder)} == {run.run_id}
    resume_with_progress(folder, 3, ["filter.m_max=3"])
    assert digests(folder)[3, "sample"] == resumable(folder)[0].digest
    assert digests(folder)[2, "update_policy"] == old
    assert verify(folder).faults == []
    assert replay(folder).differences == []
