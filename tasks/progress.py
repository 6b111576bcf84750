"""Progress within a stage, as an operator sees it in the Prefect UI."""

import time
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tapo_core.progress import LogReporter


class ArtifactReporter(LogReporter):
    """Logs, and gives each stage that takes long a progress artifact."""

    def __init__(self, seconds: float = 10.0) -> None:
        """`seconds`: between two updates, and before the first one."""
        self._seconds = seconds
        self._told = time.monotonic()
        self._artifact: UUID | None = None

    def stage(self, iteration: int, stage: str) -> None:
        """Log the stage to terminal and server. It has no artifact yet."""
        get_run_logger().info("iteration %d: %s", iteration, stage)
        self._told, self._artifact = time.monotonic(), None

    def advance(self, done: int, total: int, unit: str) -> None:
        """Make or move the artifact, unless that was done a moment ago."""
        super().advance(done, total, unit)
        now = time.monotonic()
        if now - self._told < self._seconds and not (self._artifact is not None and done == total):
            return
        self._told = now
        progress, told = 100.0 * done / max(1, total), f"{done} of {total} {unit}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(progress, description=told)
        else:
            update_progress_artifact(self._artifact, progress, description=told)
