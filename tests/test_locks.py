"""A run's lock: one process has it, the other one hears whose it is, and a killed process leaves none behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows.repair import holder_of
from tapo_core.errors import RunLockedError
from tapo_core.holder import Holder
from tapo_core.locks import lock_run

HOLD = "import sys, time; from pathlib import Path; from tapo_core.locks import lock_run\n"
HOLD += "lock_run(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"


def test_a_lock_is_held_until_its_process_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLockedError, match=rf"another process \(PID {holder.pid}\) works on this run"):
            lock_run(tmp_path)
        holder.send_signal(signal.SIGKILL)
    release = lock_run(tmp_path)
    with pytest.raises(RunLockedError, match=str(os.getpid())):
        lock_run(tmp_path)
    release()
    lock_run(tmp_path)()


def test_a_lock_is_given_back_though_a_child_was_forked(tmp_path: Path) -> None:
    release = lock_run(tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        release()
        lock_run(tmp_path)()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def hold(folder: Path, *lines: str) -> subprocess.Popen[str]:
    """A process that works on a run."""
    code = (
        "import os, sys, time; from pathlib import Path; from tapo_core.heartbeat import working_on\n"
        "from tapo_core.locks import lock_run; from tapo_core.watchdog import Watchdog\n"
        "folder = Path(sys.argv[1]); lock_run(folder)\n"
        "with working_on('sample of iteration 3'):\n"
        "    Watchdog(folder, 7200.0).start()\n"
    )
    code += "".join(f"    {line}\n" for line in (*lines, "print('held', flush=True)", "time.sleep(600)"))
    process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with hold(tmp_path) as process:
        yield process
        process.kill()


def refusal(folder: Path) -> str:
    with pytest.raises(RunLockedError) as refused:
        lock_run(folder)
    return str(refused.value)


def changed(folder: Path, **changes: object) -> None:
    """Let the holder's file say something else, until the holder writes it again ten seconds later."""
    found = Holder.read(folder)
    assert found is not None
    replace(found, **changes).write(folder)  # type: ignore[arg-type]


def test_who_finds_a_run_locked_is_told_how_far_it_is(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    pid = f"another process (PID {holder.pid}) works on this run: "
    told = refusal(tmp_path)
    assert f"{pid}sample of iteration 3, last progress " in told
    assert "s ago; wait until it has ended, or stop it, then start this again" in told

    changed(tmp_path, progress_at=time.time() - 1800)
    told = refusal(tmp_path)
    assert (
        f"{pid}it may be stuck: no progress for 30 minutes (sample of iteration 3; after 2.0 hours it ends itself)"
        in told
    )
    assert f"kill -9 {holder.pid} ends it without any loss; then start this again" in told

    changed(tmp_path, progress_at=time.time() - 9000)
    assert f"{pid}it is stuck: no progress for 2.5 hours" in refusal(tmp_path)
    changed(tmp_path, written_at=time.time() - 300)
    assert f"{pid}it is stuck: it does not even write holder.json any more" in refusal(tmp_path)

    changed(tmp_path, progress_at=time.time() - 1800, written_at=time.time(), host="elsewhere")
    told = refusal(tmp_path)
    assert f"another process (PID {holder.pid} on elsewhere) works on this run: it may be stuck" in told
    assert f"on elsewhere kill -USR2 {holder.pid}" in told

    changed(tmp_path, progress_at=time.time(), host=socket.gethostname())
    holder.send_signal(signal.SIGSTOP)
    while psutil.Process(holder.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    assert f"it is stopped by a signal, as by Ctrl-Z (sample of iteration 3); kill -CONT {holder.pid}" in refusal(
        tmp_path
    )

    holder.kill()
    holder.wait()
    lock_run(tmp_path)()


def test_a_holder_can_be_asked_where_it_is(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with hold(tmp_path, f"os.dup2(os.open({str(errors)!r}, os.O_WRONLY | os.O_CREAT), 2)") as process:
        process.send_signal(signal.SIGUSR2)
        while "(most recent call first)" not in errors.read_text():
            time.sleep(0.01)
        assert process.poll() is None, "it works on"
        process.kill()


def test_a_child_that_outlives_the_holder_of_a_lock_is_named(tmp_path: Path) -> None:
    with hold(
        tmp_path, "child = os.fork()", "if child == 0: time.sleep(600)", "(folder / 'child').write_text(str(child))"
    ) as holder:
        child = int((tmp_path / "child").read_text())
        holder.kill()
        holder.wait()
        told = refusal(tmp_path)
        assert f"the process that worked on this run (PID {holder.pid}) is dead, but a process that it started" in told
        assert f"kill -9 {child} ends it; then start this again" in told
        os.kill(child, signal.SIGKILL)
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    lock_run(tmp_path)()


def test_the_process_of_a_flow_run_is_known_by_the_lock_that_it_has(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    found = holder_of([psutil.Process(), psutil.Process(holder.pid)])
    assert found is not None
    assert (found.pid, found.place) == (holder.pid, "sample of iteration 3")
    assert holder_of([psutil.Process()]) is None
