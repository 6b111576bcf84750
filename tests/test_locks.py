"""A run's lock: one process has it, the other one hears whose it is, and a killed process leaves none behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tapo_core.errors import RunLockedError
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
