"""Progress of a run on the terminal: a moving line for what is going on, and one line kept for each iteration."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tapo_core.store import query

_SUMMARY = """
SELECT accuracy, n_eligible, n_corrections, n_parsed, n_corrections_correct, n_trained_original, n_trained_constructed
FROM iteration_summary WHERE iteration = {iteration}
"""


class RichReporter:
    """A `Reporter` for people. Use as a context manager."""

    def __init__(self, console: Console, iterations: int | None = None) -> None:
        """`iterations`: how many there will be, for flows that tell of iterations."""
        self._console = console
        self._iterations = iterations
        self._began = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("opening", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def prepare(self, what: str, share: float) -> None:
        """Show what is being made."""
        self._progress.update(self._task, description=f"preparing: {what}", completed=round(100 * share), total=100)

    def note(self, text: str) -> None:
        """Print one line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def stage(self, iteration: int, stage: str) -> None:
        """Show the stage."""
        counted = f"iteration {iteration}/{self._iterations}  {stage}"
        self._progress.reset(
            self._task, description=f"{stage} {iteration}" if self._iterations is None else counted, total=None
        )

    def advance(self, done: int, total: int, unit: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)

    def iteration(self, run_folder: Path, iteration: int) -> None:
        """Print one line from the store's summary of the iteration."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        row = query(run_folder, _SUMMARY.format(iteration=int(iteration))).iloc[0]
        line = f"iteration {iteration:3d}/{self._iterations}  accuracy {row.accuracy:5.1%}"
        if row.n_corrections:
            line += (
                f"  eligible {row.n_eligible:2.0f}  constructed {row.n_parsed:.0f}/{row.n_corrections:.0f} parsed"
                f" {row.n_corrections_correct:.0f} correct"
            )
        line += f"  trained on {row.n_trained_original:.0f}+{row.n_trained_constructed:.0f}  {seconds:5.1f} s"
        self._console.print(line, highlight=False, soft_wrap=True)
