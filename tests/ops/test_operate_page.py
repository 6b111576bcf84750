"""Every command of docs/operate.md, as it is written there, on a server and worker of the test's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tapo_core.store import verified_commits
from tests.ops.conftest import ROOT, Operated, wait_until
from tests.ops.operating import HANGS, wait_for_state

PAGE = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
BLOCKS = [
    block.replace("make demo ", ": ") for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
]  # make demo: by itself
INLINE = set(re.findall(r"`(\.venv/bin/[^`]+)`", PAGE))
STATUS, DOWN, RETRY = ".venv/bin/tapo status", ".venv/bin/tapo down", ".venv/bin/prefect flow-run retry ID"
FORK = ".venv/bin/tapo fork runs/first second --iteration 1 --set update.learning_rate=1e-4"


def test_the_page_has_no_command_that_is_not_tried_below() -> None:
    up, start, again, schedule = BLOCKS
    assert ".venv/bin/tapo up" in up
    assert "deployment run train-run/train" in start
    assert "resume runs/first --from diagnose_and_correct --iteration 2" in again
    assert "/schedules" in schedule
    pictures = ".venv/bin/python -m pytest tests/ops/test_browser.py"  # a test by itself
    assert {STATUS, DOWN, RETRY, FORK, pictures} == INLINE


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_commands_do_what_the_page_says(operated: Operated) -> None:
    (operated.folder / ".venv").symlink_to(Path(sys.prefix))
    api = f"{operated.url}/api"

    def shell(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace("http://127.0.0.1:4200/api", api)],
            cwd=operated.folder,
            env={**os.environ, **operated.env, "PREFECT_API_URL": api},
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    up, start, again, schedule = BLOCKS
    assert operated.env["TAPO_NOTIFY_URL"]
    assert f":{operated.port}" in shell(up)
    shell(start)
    wanted = {"flow_runs": {"name": {"any_": ["first"]}}}
    wait_until(lambda: len(operated.call("POST", "flow_runs/filter", wanted)) == 1, HANGS)
    (flow_run,) = operated.call("POST", "flow_runs/filter", wanted)
    wait_for_state(operated, flow_run["id"], "Completed")
    runs = operated.folder / "runs"
    before = verified_commits(runs / "first")
    assert before[-1].iteration == 2

    shell(again)
    after = verified_commits(runs / "first")
    assert [c.stage for c in after if c.stage not in {d.stage for d in before}] == ["rewind-1"]
    assert verified_commits(runs / "first.before-rewind-1") == before
    shell(FORK)
    assert {commit.iteration for commit in verified_commits(runs / "second")} == {0, 1, 2}

    operated.call("POST", f"flow_runs/{flow_run['id']}/set_state", {"state": {"type": "CRASHED"}, "force": True})
    shell(RETRY.replace("ID", flow_run["id"]))
    wait_for_state(operated, flow_run["id"], "Completed")
    assert verified_commits(runs / "first") == after, "all was done"

    shell(schedule)
    (made,) = operated.deployment("train")["schedules"]
    assert (made["schedule"]["interval"], made["parameters"]) == (3600, {"name": "first", "more": 1})
    assert "running since" in shell(STATUS)
    assert "server stopped" in shell(DOWN)
