"""Configuration: strict, explained in one line, and identified by a digest."""

from pathlib import Path

import pytest

from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config, parse_config, read_toml
from tapo_core.errors import ConfigError

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


def test_the_digest_is_of_what_shapes_trajectories() -> None:
    def config(**run: object) -> TapoConfig:
        return parse_config({"run": {"name": "a", **run}}, "test")

    assert config().digest == config(name="b", iterations=99, output_dir="/elsewhere").digest
    assert config().digest != config(seed=1).digest
    patient = parse_config({"run": {"name": "a"}, "limits": {"retries": 9}, "tracking": {"tensorboard": True}}, "test")
    assert config().digest == patient.digest, "how a run is operated does not make it another run"
    assert config().digest != parse_config({"run": {"name": "a"}, "method": "grpo"}, "test").digest


def test_each_stage_has_its_time_and_the_pauses_grow() -> None:
    limits = {"retries": 8, "retry_seconds": 10, "timeout_minutes": 60, "stage_timeout_minutes": {"sample": 1.5}}
    found = parse_config({"run": {"name": "a"}, "limits": limits}, "test").limits
    assert (found.timeout_seconds("sample"), found.timeout_seconds("verify")) == (90.0, 3600.0)
    assert found.pauses == [10.0, 30.0, 90.0, 270.0, 810.0, 2430.0, 3600.0, 3600.0]
    with pytest.raises(ConfigError, match=r"limits\.stage_timeout_minutes"):
        parse_config({"run": {"name": "a"}, "limits": {"stage_timeout_minutes": {"smaple": 1}}}, "test")
