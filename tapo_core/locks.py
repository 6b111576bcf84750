"""Locks that a process holds from start to end, and that no crash leaves behind."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from tapo_core import holder
from tapo_core.errors import RunLockedError

RUN_LOCK = "run.lock"  #: in the run's folder; the kernel holds the lock, the file only says whose it is


class _TakenError(Exception):
    """Somebody else has a lock. The message is the PID that its file says."""


def lock_run(run_folder: Path) -> Callable[[], None]:
    """Keep all others from working on a run, whose folder exists. The result gives the lock back.

    Raises:
        RunLockedError: someone else has it. The message names the PID, and says how far it is and what to do.
    """
    file = run_folder / RUN_LOCK
    try:
        return _take(file)
    except _TakenError as taken:
        raise RunLockedError(f"{run_folder}: {holder.told(run_folder, file, str(taken))}") from taken


def take_lock(file: Path, taken: str) -> Callable[[], None]:
    """Take the lock of a file, which is made if need be. The result gives it back; so does the end of the process.

    Raises:
        RunLockedError: someone else has it; `taken` with the PID in place of its braces.
    """
    try:
        return _take(file)
    except _TakenError as error:
        raise RunLockedError(taken.format(error)) from error


def _take(file: Path) -> Callable[[], None]:
    """Raises `_TakenError`."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise _TakenError(pid or "unknown") from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release() -> None:
        os.ftruncate(descriptor, 0)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that was forked meanwhile has the descriptor too
        os.close(descriptor)

    return release
