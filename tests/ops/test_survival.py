"""A run that is started from the form, killed, retried as the UI does it, and has done nothing twice."""

from collections import Counter

import pytest

from tapo_core.store import verified_commits
from tests.flows.conftest import NANO
from tests.ops.conftest import Operated, wait_until
from tests.ops.operating import HANGS, done_once, kill, wait_for_task

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def wait_for_state(operated: Operated, flow_run_id: str, state: str) -> None:
    def there() -> bool:
        found = operated.flow_run(flow_run_id)["state"]
        assert found["name"] == state or found["type"] not in ("COMPLETED", "FAILED", "CANCELLED"), found
        return bool(found["name"] == state)

    wait_until(there, HANGS)


def retry(operated: Operated, flow_run_id: str) -> None:
    """The button Retry."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    answer = operated.call("POST", f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
    assert answer["status"] == "ACCEPT"


def test_a_killed_run_is_crashed_and_a_retry_does_the_rest(operated: Operated) -> None:
    answer = operated.start("train", name="killed", more=2, overrides=NANO)
    assert answer.status_code == 201, answer.text
    flow_run_id = answer.json()["id"]
    wait_for_state(operated, flow_run_id, "Running")
    queued = operated.start("train", name="killed", more=1, overrides=NANO).json()["id"]
    run = operated.folder / "runs" / "killed"

    # In the second iteration: had the retry counted `more` anew, it would now train to the third.
    wait_for_task(operated, flow_run_id, "sample 2")
    assert operated.flow_run(queued)["state"]["type"] == "SCHEDULED", "one at a time"
    operated.call("POST", f"flow_runs/{queued}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
    kill(flow_run_id)
    wait_for_state(operated, flow_run_id, "Crashed")
    before = [(commit.seq, commit.stage) for commit in verified_commits(run)]
    retry(operated, flow_run_id)
    wait_for_state(operated, flow_run_id, "Completed")
    assert operated.flow_run(flow_run_id)["run_count"] == 2
    assert [(commit.seq, commit.stage) for commit in verified_commits(run)][: len(before)] == before
    assert done_once(run, 2)
    states = Counter(state for _, state in operated.task_runs(flow_run_id))
    assert states["Running"] == 0, "the killed task run is not left behind"
    assert states["Cached"] >= 8, "the stages that were done"

    # Again, and this time the worker dies with it: nobody is left to tell. `tapo up` sees it.
    flow_run_id = operated.start("train", name="killed", more=1, overrides=NANO).json()["id"]
    wait_for_task(operated, flow_run_id, "sample 3")
    kill(flow_run_id, operated.pid("worker"))
    seen = operated.tapo("status")
    assert seen.returncode == 1
    assert f"dead        killed  Running  {flow_run_id}" in seen.stdout
    repaired = operated.tapo("up")
    assert repaired.returncode == 0, repaired.stderr
    assert "flow run killed had no process any more: Crashed" in repaired.stdout
    retry(operated, flow_run_id)
    wait_for_state(operated, flow_run_id, "Completed")
    assert done_once(run, 3)
    assert operated.tapo("status").returncode == 0
