"""How a run tells what it is doing. The core only calls a `Reporter`; who listens is the caller's business."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Receives the progress of a run."""

    def prepare(self, what: str, share: float) -> None:
        """Something is being made before the run begins; `share` of it (0 to 1) is done."""

    def note(self, text: str) -> None:
        """Something that a person should know about the run, in one line."""

    def stage(self, iteration: int, stage: str) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, unit: str) -> None:
        """Within the current stage, `done` of `total` units are finished."""

    def iteration(self, run_folder: Path, iteration: int) -> None:
        """An iteration is complete and in the store."""


class LogReporter:
    """Reports to the standard log: notes at WARNING, stages at INFO, progress within a stage at DEBUG."""

    def prepare(self, what: str, share: float) -> None:
        """Log what is being made."""
        logger.debug("%s: %.0f%%", what, 100 * share)

    def note(self, text: str) -> None:
        """Log it as a warning."""
        logger.warning("%s", text)

    def stage(self, iteration: int, stage: str) -> None:
        """Log the stage."""
        logger.info("iteration %d: %s", iteration, stage)

    def advance(self, done: int, total: int, unit: str) -> None:
        """Log the progress."""
        logger.debug("%d of %d %s", done, total, unit)

    def iteration(self, run_folder: Path, iteration: int) -> None:
        """Log the end of the iteration."""
        logger.info("iteration %d is complete in %s", iteration, run_folder)


_reporter: ContextVar[Reporter | None] = ContextVar("tapo_reporter", default=None)


def current_reporter() -> Reporter:
    """Who listens in this context: a `LogReporter` unless `reporting` says otherwise."""
    return _reporter.get() or LogReporter()


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Let a reporter listen to the runs in this block."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)
