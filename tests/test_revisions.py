"""Settings that are given for a run that exists, without any engine."""

from pathlib import Path
from typing import Any

import pytest

from flows import deployed
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config, parse_config
from tapo_core.errors import ConfigError
from tapo_core.ids import canonical_json, deterministic_id, digest
from tapo_core.records import Config, Run
from tapo_core.resume import resumable
from tapo_core.revisions import check_same_settings, stored_history
from tapo_core.store import StoreWriter


def begin(config: TapoConfig, **other: Any) -> TapoConfig:
    """The first rows of a run."""
    run_id = deterministic_id("run", name=config.run.name)
    run = Run(run_id, config.run.name, 0, config.method, config.digest, "1", "{}", "2026-01-02T03:04:05Z")
    stored = Config(config.digest, canonical_json(config.model_dump(mode="json") | other))
    StoreWriter(config.run_folder).commit_stage(
        run_id=run_id,
        iteration=0,
        stage="start",
        config_digest=config.digest,
        input_digest=digest("i"),
        manifest={},
        records=[run, stored],
    )
    return config


def test_other_settings_are_refused_with_their_keys_and_the_ways(tmp_path: Path) -> None:
    tree: dict[str, Any] = {"run": {"name": "a", "output_dir": str(tmp_path)}}
    begin(parse_config(tree, "test"))
    check_same_settings(parse_config(tree | {"limits": {"retries": 1}, "evaluation": {"samples": 9}}, "test"))
    check_same_settings(parse_config({"run": {"name": "new", "output_dir": str(tmp_path)}}, "test"))
    with pytest.raises(ConfigError) as refused:
        check_same_settings(parse_config(tree | {"method": "grpo", "filter": {"n_pos": 1}}, "test"))
    told = str(refused.value)
    assert 'method is "tapo" there and "grpo" here, filter.n_pos is 2 there and 1 here' in told
    assert "tapo resume" not in told, "it cannot change the method"
    assert f"tapo fork {tmp_path / 'a'} NEW_NAME --set 'method=\"grpo\"' --set filter.n_pos=1" in told
    assert "another run.name" in told
    assert "\n" not in told


def test_a_form_with_nothing_but_the_name_of_a_run_goes_on_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = deployed.PRESETS["nano-tapo"]
    own = begin(load_config(file, ["run.name=first", "update.learning_rate=9e-4", "evaluation.samples=7"]))
    config = deployed._training("nano-tapo", "first", None, [], 12)
    assert (config.digest, config.evaluation.samples, config.run.iterations) == (own.digest, 7, 12)
    assert deployed._training("nano-tapo", "second", None, []).evaluation == load_config(file).evaluation
    for preset, overrides in (("nano-grpo", []), ("nano-tapo", ["filter.n_pos=1"])):
        with pytest.raises(ConfigError, match=r"update\.learning_rate is 0\.0009 there"):
            check_same_settings(deployed._training(preset, "first", None, overrides))


def test_a_stored_configuration_with_a_key_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begin(parse_config({"run": {"name": "a", "output_dir": str(tmp_path)}}, "test"), old={"key": 1})
    with pytest.raises(ConfigError, match="unknown key old"):
        stored_history(config.run_folder)
    monkeypatch.setattr("tapo_core.revisions.RETIRED", frozenset({"old"}))
    assert resumable(config.run_folder)[0].digest == config.digest
