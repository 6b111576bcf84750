"""Quality of the default cold start: three minutes of training, so it is slow."""

from pathlib import Path

import pytest

from flows.evaluate import evaluate_policy
from flows.train import train
from tapo_core.config_file import load_config
from tapo_core.records import Correction, ParseOutcome
from tapo_core.store import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_default_model_is_inside_the_zone_of_proximal_development(
    nano_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPO_CACHE", str(nano_cache))
    settings = ["run.name=quality", f"run.output_dir={tmp_path}", "run.iterations=1", "evaluation.every=0"]
    config = load_config(ROOT / "configs" / "nano_tapo.toml", settings)
    train(config)
    before = evaluate_policy(config, 0)["manifest"]
    assert 0.25 <= before["pass@1"] <= 0.45
    corrections = load(config.run_folder, Correction, iteration=1)
    parsed = [c for c in corrections if c.parse_outcome is ParseOutcome.PARSED]
    tagged = [c for c in corrections if c.parse_outcome is not ParseOutcome.NO_TAG]
    assert len(corrections) > 80
    assert len(tagged) >= 0.9 * len(corrections)
    assert len(parsed) >= 0.4 * len(corrections)
