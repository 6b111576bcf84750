"""Ends a process whose work on a run stands still, so that somebody can start it again.

It needs neither the main thread nor the lock of `logging`, either of which may be what everything waits for: a thread of its own
looks at the signs of progress (`heartbeat`), writes the stacks of all threads straight to the file descriptors, and calls
`os._exit`. Nothing that it does while ending can wait for another thread.
"""

import faulthandler
import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tapo_core.heartbeat import place, signs
from tapo_core.holder import FILE, Holder

STACKS = "stuck.txt"  #: in the run's folder: the stacks of each process that ended itself

_LOOK = 10.0  #: seconds between two looks
_STDERR = 2
_PIECE = 4096  #: bytes that a pipe takes at once, if it takes any
_PATIENCE = 5.0  #: seconds that standard error may take no bytes


class Watchdog:
    """Of one run in this process, from `start` to `stop`. It also tells others how far the process is (`holder`)."""

    def __init__(self, run_folder: Path, limit_seconds: float, pause_seconds: float = 0.0) -> None:
        """`limit_seconds`: that may pass without progress. `pause_seconds`: as many more, between two attempts of a stage."""
        self._folder = run_folder
        self._limit = limit_seconds
        self._pause = pause_seconds
        self._look = min(_LOOK, limit_seconds / 20)
        self._progress_at = time.time()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> str | None:
        """Begin to watch. What the last process that worked on the run says of its end, if it ended itself."""
        left = Holder.read(self._folder)
        self._progress_at = time.time()
        self._write()
        faulthandler.register(signal.SIGUSR2, file=_STDERR, all_threads=True)
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="tapo-watchdog", daemon=True)
        self._thread.start()
        return None if left is None else left.ended

    def stop(self) -> None:
        """Watch no longer. A second call does nothing."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            faulthandler.unregister(signal.SIGUSR2)
            with suppress(OSError):
                (self._folder / FILE).unlink()

    def _watch(self) -> None:
        seen, silent, last = signs(), 0.0, time.monotonic()
        while not self._over.wait(self._look):
            now = time.monotonic()
            # Not all the time that has passed: the process may have been stopped (Ctrl-Z), or its machine have slept.
            silent += min(now - last, 2 * self._look)
            last, found = now, signs()
            if found != seen:
                seen, silent, self._progress_at = found, 0.0, time.time()
            elif silent > self._limit + (self._pause if place() is None else 0.0):
                self._end(silent)
            self._write()

    def _write(self, ended: str | None = None) -> None:
        """A disk that is full must not end a run by this."""
        with suppress(OSError):
            Holder(
                pid=os.getpid(),
                host=socket.gethostname(),
                place=_place(),
                progress_at=self._progress_at,
                limit_seconds=self._limit,
                written_at=time.time(),
                ended=ended,
            ).write(self._folder)

    def _end(self, silent: float) -> None:
        file = self._folder / STACKS
        try:
            why = (
                f"no progress for {silent / 60:.4g} minutes ({_place()}; limits.no_progress_minutes sets the limit); the "
                f"process (PID {os.getpid()}) ended itself, and the stacks of its threads are in {file}"
            )
            told = f"tapo: {self._folder}: {why}. Nothing is lost: retry the flow run, or tapo resume {self._folder}.\n"
            stacks = told.encode() + _stacks() + b"\n"
            _print(stacks)
            with suppress(OSError), file.open("ab") as opened:
                opened.write(datetime.now(UTC).isoformat(timespec="seconds").encode() + b" " + stacks)
            self._write(ended=why)
        finally:
            os._exit(1)


def _place() -> str:
    return place() or "between two stages"


def _stacks() -> bytes:
    """Of all threads."""
    with os.fdopen(os.memfd_create("stacks"), "w+b") as memory:
        faulthandler.dump_traceback(memory, all_threads=True)
        memory.seek(0)
        return memory.read()


def _print(text: bytes) -> None:
    """To standard error, as far as somebody reads it: a pipe that nobody empties must not keep the process alive."""
    poll = select.poll()
    poll.register(_STDERR, select.POLLOUT)
    with suppress(OSError):
        while text and poll.poll(1000 * _PATIENCE):
            text = text[os.write(_STDERR, text[:_PIECE]) :]
