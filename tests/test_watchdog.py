"""A process whose work stands still ends itself and says where; one that works, or was only stopped for a while, does not."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tapo_core.holder import FILE, Holder
from tapo_core.watchdog import STACKS

#: A stage under a watchdog with a limit of a second. Its arguments: the run's folder, and what the stage does.
_STAGE = """
import logging, os, signal, sys, threading, time
from pathlib import Path
from tapo_core.heartbeat import beat, growing, working_on
from tapo_core.locks import lock_run
from tapo_core.watchdog import Watchdog

def waits_for_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def holds_the_lock_of_logging():
    with logging._lock:
        waits_for_a_lock()

def has_no_reader_of_its_errors():
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.write(2, bytes(1 << 16))  # all that a pipe holds
    waits_for_a_lock()

def works():
    for _ in range(50):
        time.sleep(0.05)
        beat()

def writes():
    with growing(folder), (folder / "weights").open("wb", buffering=0) as file:
        for _ in range(50):
            time.sleep(0.05)
            file.write(b"0")

def is_stopped():
    print("stop me", flush=True)
    works()

folder = Path(sys.argv[1])
lock_run(folder)
watchdog = Watchdog(folder, 1.0)
print(watchdog.start(), flush=True)
with working_on("sample of iteration 3"):
    globals()[sys.argv[2]]()
watchdog.stop()
"""


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _STAGE, folder, what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("stage", ["waits_for_a_lock", "holds_the_lock_of_logging", "has_no_reader_of_its_errors"])
def test_a_stage_that_hangs_ends_with_its_process_and_its_stacks_are_kept(tmp_path: Path, stage: str) -> None:
    with start(tmp_path, stage) as process:
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 1
    kept = (tmp_path / STACKS).read_text()
    for text in (kept, printed) if stage != "has_no_reader_of_its_errors" else (kept,):
        assert "minutes (sample of iteration 3; limits.no_progress_minutes" in text
        assert f"(PID {process.pid}) ended itself" in text
        assert f"in {stage}\n" in text, "where the main thread is"
        assert len(re.findall(r"hread 0x\w+ .most recent call first", text)) == 2, "the stacks of all threads"
    with start(tmp_path, "works") as again:
        told, _ = again.communicate(timeout=120)
    assert told.startswith("no progress for ")
    assert str(tmp_path / STACKS) in told


@pytest.mark.parametrize("stage", ["works", "writes", "is_stopped"])
def test_a_stage_that_takes_longer_than_the_limit_and_makes_progress_is_left_alone(tmp_path: Path, stage: str) -> None:
    with start(tmp_path, stage) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "None\n"
        holder = Holder.read(tmp_path)
        assert holder is not None
        assert holder.pid == process.pid
        if stage == "is_stopped":
            assert process.stdout.readline() == "stop me\n"
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(2)
            os.kill(process.pid, signal.SIGCONT)
        _, printed = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert not (tmp_path / STACKS).exists()
    assert not (tmp_path / FILE).exists(), "nobody works on the run any more"
