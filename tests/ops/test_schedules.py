"""Flow runs of one training run, started at once or by a schedule: one after the other, each from where the last one ended."""

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.flows.conftest import NANO
from tests.ops.conftest import Operated, wait_until
from tests.ops.operating import HANGS, done_once, wait_for_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def flow_runs(operated: Operated, name: str) -> list[dict[str, Any]]:
    """The flow runs of a training run, in the order in which they began."""
    found: list[dict[str, Any]] = operated.call(
        "POST", "flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_ASC"}
    )
    return found


def check_increments(operated: Operated, name: str) -> int:
    """Each flow run began when the one before had ended, and made the next iteration. How many there were."""
    found = flow_runs(operated, name)
    assert {run["state_type"] for run in found} == {"COMPLETED"}
    for earlier, later in itertools.pairwise(found):
        assert earlier["end_time"] <= later["start_time"]
    for number, run in enumerate(found, start=1):
        told = operated.call("POST", "logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})
        sampled = [line["message"] for line in told if line["message"].endswith(": sample")]
        assert sampled == [f"iteration {number}: sample"]
    assert done_once(operated.folder / "runs" / name, len(found))
    return len(found)


def test_two_started_at_once_are_one_after_the_other(operated: Operated) -> None:
    ids = [operated.start("train", name="both", more=1, overrides=NANO).json()["id"] for _ in range(2)]
    for flow_run_id in ids:
        wait_for_state(operated, flow_run_id, "Completed")
    assert check_increments(operated, "both") == 2


def test_a_schedule_of_five_minutes_makes_five_increments(operated: Operated) -> None:
    deployment = operated.deployment("train")["id"]
    parameters = {"name": "minutely", "more": 1, "overrides": NANO}
    every_minute = {"interval": 60, "anchor_date": datetime.now(UTC).isoformat()}
    body = [{"active": True, "schedule": every_minute, "parameters": parameters}]
    (schedule,) = operated.call("POST", f"deployments/{deployment}/schedules", body)
    place = f"deployments/{deployment}/schedules/{schedule['id']}"
    try:
        wait_until(lambda: sum(run["start_time"] is not None for run in flow_runs(operated, "minutely")) >= 5, HANGS)
    finally:
        assert operated.request("DELETE", place).status_code == 204
    wait_until(lambda: all(run["end_time"] is not None for run in flow_runs(operated, "minutely")), HANGS)
    assert check_increments(operated, "minutely") >= 5
