"""What an update says of the distance between sampler and trainer, in a whole run."""

from flows.train import train
from tapo_core.assets import resolve_assets
from tapo_core.iteration_report import iteration_report
from tapo_core.keeping import REPORT
from tapo_core.progress import reporting
from tapo_core.records import UpdateMetric
from tapo_core.session import Session
from tapo_core.store import StoreReader
from tapo_core.viewer.urls import ADDRESS, iteration_url
from tests.flows.conftest import Configure, StopAt


class Notes(StopAt):
    def __init__(self) -> None:
        super().__init__(-1, "")
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_distance_is_stored_and_an_alarm_is_told(configure: Configure) -> None:
    config = configure("apart", "off_policy.alarm_mean=1e-12", "off_policy.correction=tis")
    listener = Notes()
    with reporting(listener):
        train(config)
    metrics = {(m.optimizer_step, m.name): m.value for m in StoreReader(config.run_folder).load(UpdateMetric)}
    assert 0.0 < metrics[-1, "sampler_mismatch/mean"] <= metrics[-1, "sampler_mismatch/max"] < 1e-3
    assert 0.999 < metrics[-1, "sampler_mismatch/ess_token"] <= 1.0
    assert 0.999 < metrics[-1, "sampler_mismatch/ess_sequence"] <= 1.0
    assert metrics[0, "off_policy_outside/original"] == 0.0
    told = [note for note in listener.notes if "off_policy.alarm_mean" in note]
    assert len(told) == 1
    assert "ALARM: iteration 1" in told[0]
    session = Session(config, resolve_assets(config))
    report = iteration_report(session, 1)
    session.close()
    assert "off_policy.alarm_mean" in report
    # It was the last iteration, so the report on the whole run is there, and named beside the page of the viewer.
    assert str((config.run_folder / REPORT).resolve()) in report
    assert "Iterations trained" in (config.run_folder / REPORT).read_text(encoding="utf-8")
    assert f"tapo view {config.run_folder}" in report
    assert f"{ADDRESS}{iteration_url(config.run_folder.name, 1)}" in report
