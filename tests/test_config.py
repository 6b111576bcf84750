"""Configuration: strict, explained in one line, and identified by a digest."""

from pathlib import Path
from typing import Any

import pytest

from tapo_core.config import PURPOSES, TapoConfig
from tapo_core.config_file import load_config, parse_config, read_toml
from tapo_core.config_section import Kind
from tapo_core.errors import ConfigError
from tapo_core.revisions import changed_keys, combined

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_shipped_config_parses(path: Path) -> None:
    assert load_config(path).run.name


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_line_ends_are_no_content(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + line_end.join(["[run]", 'name = "é"', ""]).encode())
    assert read_toml(path) == {"run": {"name": "é"}}


@pytest.mark.parametrize(
    ("encoding", "says"),
    [
        ("utf-16", "UTF-16 text, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
        ("utf-16-le", "UTF-16LE text, not UTF-8"),
        ("latin-1", "not UTF-8 text (invalid continuation byte at byte 14); save it as UTF-8"),
    ],
)
def test_a_configuration_in_another_encoding_is_called_by_its_name(tmp_path: Path, encoding: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes('[run]\nname = "é"\n'.encode(encoding))
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: {says}")


def test_overrides_are_toml_values_or_text(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[run]\nname = "a"\n')
    config = load_config(path, ["update.learning_rate=1e-6", "run.name=b", 'sampler.engine="hf"', "run.iterations=7"])
    assert (config.update.learning_rate, config.run.name) == (1e-6, "b")
    assert (config.sampler.engine, config.run.iterations) == ("hf", 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[run]\nname = "a"\n[update]\nlearning_rat = 1', "unknown key update.learning_rat (did you mean update.learning_rate?)"),
        ("[run]\nseed = 1", "key run.name is missing"),
        ('[run]\nname = "a"\niterations = 0', "run.iterations"),
        ('[run]\nname = "../a"', "run.name"),
        ('[run]\nname = "a"\n[filter]\nn_pos = 5', "no query could ever be eligible"),
        ('[run]\nname = "a"\n[sampler]\nmax_model_len = 64', "leaves no room"),
        ('[run]\nname = "a"\n[token_weight]\nmin_weight = 20.0', "above token_weight.max_weight"),
        ('[run]\nname = "a"\n[update]\ntrain_diagnosis = false', "needs update.train_prefix = false"),
        ('[run]\nname = "a"\n[zpd]\nlow = 0.9', "zpd.low is above zpd.high"),
        ('[run]\nname = "a"\n[cold_start]\nn_sft = 0\nn_ift = 0', "there would be no examples"),
        ('[run]\nname = "a"\n[sampler]\nprobe_tolerance = "none"', "sampler.probe_tolerance: write a number of nats above 0, or"),
        ('[run]\nname = "a"\n[sampler]\nprobe_tolerance = 0', "sampler.probe_tolerance: write a number of nats above 0, or"),
        ("[run", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_bad_config_is_one_line_that_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_config_and_a_bad_override_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot read"):
        load_config(tmp_path / "nowhere.toml")
    path = tmp_path / "c.toml"
    path.write_text('[run]\nname = "a"\n')
    with pytest.raises(ConfigError, match=r"write it as section\.key=value"):
        load_config(path, ["update.learning_rate"])
    with pytest.raises(ConfigError, match="name is not a section"):
        load_config(path, ["run.name.x=1"])


#: Of every key, a value that is not its default; together with it, keys that it needs.
OTHER: dict[str, Any] = {
    "method": "grpo",
    "run.output_dir": "/elsewhere",
    "model.path": "/models/other",
    "model.dtype": "bfloat16",
    "model.chat_template_kwargs": {"enable_thinking": False},
    "data.columns.answer_pattern": "#### (.+)",
    "data.held_out_columns": {"problem": "question"},
    "data.decontaminate": "drop",
    "sampler.engine": "hf",
    "sampler.probe_tolerance": 0.1,
    "locate_error.methods": ["arithmetic", "policy"],
    "correction.mode": "full_reconstruction",
    "filter.scope": "batch",
    "advantage.constructed_scope": "query",
    "token_weight.policy": "current",
    "verifier.fallback": "none",
    "update.train_prefix": False,
    "update.train_diagnosis": (False, {"update.train_prefix": False}),
    "update.constructed_loss": "log_likelihood",
    "update.loss_aggregation": "sequence",
    "update.adam_betas": [0.8, 0.9],
    "update.zero_stage": 2,
    "update.offload": ("optimizer", {"update.zero_stage": 2}),
    "update.lora_targets": ["q_proj"],
    "off_policy.correction": "tis",
    "evaluation.datasets": {"bench": "bench.jsonl"},
    "store.lake": "lake.duckdb",
    "limits.stage_timeout_minutes": {"sample": 1.0},
    "cluster.runtime": "ray",
    "cluster.address": ("auto", {"cluster.runtime": "ray"}),
    "cluster.placement": ("disjoint", {"cluster.runtime": "ray"}),
    "cluster.weight_transfer": ("direct", {"cluster.runtime": "ray", "cluster.placement": "disjoint"}),
    "cluster.sampler_replicas": (2, {"cluster.runtime": "ray"}),
    "cluster.trainer_ranks": (2, {"cluster.runtime": "ray"}),
    "sft.schedule": "constant",
    "nano.families": ["equation"],
    "nano.levels": [1],
}


def plain(**keys: Any) -> TapoConfig:
    tree: dict[str, Any] = {"run": {"name": "a"}}
    for key, value in keys.items():
        place = tree
        *sections, name = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return parse_config(tree, "test")


@pytest.mark.parametrize("key", PURPOSES)
def test_the_digest_is_of_the_keys_that_shape_trajectories(key: str) -> None:
    before = plain()
    old = before.by_key[key]
    wanted, needs = OTHER[key] if isinstance(OTHER.get(key), tuple) else (OTHER.get(key), {})
    if wanted is None:
        wanted = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 0.9 or 0.5}.get(
            type(old), lambda v: f"{v or ''}x"
        )(old)
    without, after = plain(**needs), plain(**needs, **{key: wanted})
    assert after.by_key[key] != without.by_key[key]
    kind = PURPOSES[key].kind
    assert (after.digest != without.digest) == (kind in (Kind.SHAPES, Kind.FIXED))
    assert [change.key for change in changed_keys(without, after)] == ([] if kind is Kind.NAMES else [key])
    assert combined(without, after).digest == without.digest
    assert combined(without, after).by_key[key] == (without if kind.in_digest else after).by_key[key]
    assert bool(PURPOSES[key].why) == (kind in (Kind.FIXED, Kind.NAMES))


def test_keys_that_only_operate_a_run_are_declared_so() -> None:
    """A key shapes unless it is declared otherwise, so this list grows only where somebody decided it."""
    operating = {key for key, purpose in PURPOSES.items() if purpose.kind is Kind.OPERATES}
    sections = ("evaluation.", "tracking.", "store.", "limits.", "cluster.")
    assert {key for key in operating if not key.startswith(sections)} == {
        "run.iterations",
        *(f"sampler.{n}" for n in ("kv_cache_gib", "gpu_memory_utilization", "tensor_parallel_size", "max_num_seqs")),
        *(key for key in PURPOSES if key.startswith("sampler.probe_")),
        *(f"update.{n}" for n in ("micro_batch_tokens", "score_chunk_tokens", "gradient_checkpointing", "zero_stage")),
        *("update.offload", "update.keep_optimizer_states", "sft.micro_batch_tokens"),
        *("off_policy.alarm_mean", "off_policy.alarm_ess", "verifier.alarm_unknown_share", "verifier.run_model_code"),
    }
    assert {key for key in PURPOSES if key.startswith(sections)} <= operating


def test_each_stage_has_its_time_and_the_pauses_grow() -> None:
    limits = {"retries": 8, "retry_seconds": 10, "timeout_minutes": 60, "stage_timeout_minutes": {"sample": 1.5}}
    found = parse_config({"run": {"name": "a"}, "limits": limits}, "test").limits
    assert (found.timeout_seconds("sample"), found.timeout_seconds("verify")) == (90.0, 3600.0)
    assert found.pauses == [10.0, 30.0, 90.0, 270.0, 810.0, 2430.0, 3600.0, 3600.0]
    with pytest.raises(ConfigError, match=r"limits\.stage_timeout_minutes"):
        parse_config({"run": {"name": "a"}, "limits": {"stage_timeout_minutes": {"smaple": 1}}}, "test")
