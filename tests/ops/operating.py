"""What the tests of killed runs share, whether a program or a browser operates them."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from flows.repair import processes_of_flow_runs
from tapo_core.records import PolicyVersion
from tapo_core.store import load, verified_commits
from tests.ops.conftest import Operated, wait_until

STAGES = ["sample", "verify", "locate_error", "diagnose_and_correct", "filter_by_difficulty", "update_policy"]
HANGS = 900  #: seconds; a limit against hanging, not a measure


def wait_for_task(operated: Operated, flow_run_id: str, task: str) -> None:
    wait_until(lambda: task in [name for name, _ in operated.task_runs(flow_run_id)], HANGS)


def wait_for_state(operated: Operated, flow_run_id: str, state: str) -> None:
    def there() -> bool:
        found = operated.flow_run(flow_run_id)["state"]
        assert found["name"] == state or found["type"] not in ("COMPLETED", "FAILED", "CANCELLED"), found
        return bool(found["name"] == state)

    wait_until(there, HANGS)


def wait_for_reports(operated: Operated, flow_run_id: str) -> None:
    """Until nobody calls a killed flow run Crashed any more: runner and worker both do, a moment apart, and whoever comes second
    would put an end to a retry.
    """
    states = [(0.0, "")]

    def settled() -> bool:
        now, state = time.monotonic(), operated.flow_run(flow_run_id)["state"]["id"]
        if state != states[-1][1]:
            states.append((now, state))
        return now - states[-1][0] > 5

    wait_until(settled, HANGS)


def retry(operated: Operated, flow_run_id: str) -> None:
    """The button Retry."""
    wait_for_reports(operated, flow_run_id)
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    answer = operated.call("POST", f"flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
    assert answer["status"] == "ACCEPT"


def kill(flow_run_id: str, *more: int) -> None:
    processes = processes_of_flow_runs()[flow_run_id]
    for pid in [*more, *(process.pid for process in processes)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)


@contextmanager
def held(flow_run_id: str) -> Iterator[None]:
    """The flow run stands still meanwhile, however short it is."""
    processes = processes_of_flow_runs()[flow_run_id]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def done_once(run: Path, iterations: int) -> bool:
    """Every stage is one row and one line, and a policy version came out of each iteration."""
    commits = [(commit.iteration, commit.stage) for commit in verified_commits(run)]
    lines = [json.loads(line) for line in (run / "store" / "ledger.jsonl").read_text().splitlines()]
    assert max(Counter(commits).values()) == 1
    assert [(line["iteration"], line["stage"]) for line in lines] == commits
    assert sorted(v.iteration for v in load(run, PolicyVersion)) == list(range(iterations + 1))
    wanted = {(0, "start"), (0, "evaluate"), (iterations, "evaluate")}
    return set(commits) >= wanted | {(i, stage) for i in range(1, iterations + 1) for stage in STAGES}
