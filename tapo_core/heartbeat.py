"""Signs that work on a run goes on, given from within its long loops; `watchdog` ends a process that gives none for too long."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class _Signs:
    """Of this process."""

    def __init__(self) -> None:
        self.count = 0
        self.place: str | None = None
        self.forward: Callable[[], None] | None = None
        self.growing: list[Path] = []
        self.lock = threading.Lock()  # of `growing`


_signs = _Signs()


def beat() -> None:
    """A part of the work is done: a token, a micro-batch, a verdict, a file. Costs next to nothing."""
    _signs.count += 1  # a beat that is lost between two threads does no harm
    if _signs.forward is not None:
        _signs.forward()


@contextmanager
def working_on(place: str) -> Iterator[None]:
    """The block is a stage, called so. Its beginning and its end are beats."""
    _signs.place = place
    beat()
    try:
        yield
    finally:
        _signs.place = None
        beat()


def place() -> str | None:
    """The stage that this process works on; None between two stages."""
    return _signs.place


@contextmanager
def growing(folder: Path) -> Iterator[None]:
    """While the block runs, each byte that is added to the files of a folder counts as a beat, whoever writes it."""
    with _signs.lock:
        _signs.growing.append(folder)
    try:
        yield
    finally:
        with _signs.lock:
            _signs.growing.remove(folder)
        beat()


def signs() -> tuple[int, int]:
    """Number of beats, and bytes in the folders that are being filled. The work goes on if this is not what it was."""
    with _signs.lock:
        folders = list(_signs.growing)
    return _signs.count, sum(_bytes_in(folder) for folder in folders)


def _bytes_in(folder: Path) -> int:
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue  # renamed meanwhile
    return size


def forward_beats(to: Callable[[], None], seconds: float = 10.0) -> None:
    """From now on also call `to` at a beat, at most once in so many seconds: to a process that waits for this one."""
    last = -seconds

    def forward() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            to()

    _signs.forward = forward
