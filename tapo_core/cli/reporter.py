"""Progress of a run on the terminal: a moving line for what is going on, and one line kept for each iteration."""

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tapo_core.records import ParseOutcome, VerificationOutcome
from tapo_core.store.iteration_counts import iteration_counts
from tapo_core.store.snapshot import snapshot_commits


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
        """Print one line of what the iteration's commits say, which takes no longer in a large run."""
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        (counts,) = (one for one in iteration_counts(snapshot_commits(run_folder)) if one.iteration == iteration)
        accuracy, trained = counts.accuracy, counts.trained
        line = f"iteration {iteration:3d}/{self._iterations}  accuracy "
        line += "unknown" if accuracy is None else f"{accuracy.value:5.1%}"
        if counts.n_constructions:
            parsed = counts.parses.get(ParseOutcome.PARSED, 0)
            line += f"  eligible {counts.decisions.get('query/eligible', 0):2d}"
            line += f"  constructed {parsed}/{counts.n_constructions} parsed"
            if counts.constructed_verdicts is not None:
                line += f" {counts.constructed_verdicts.get(VerificationOutcome.CORRECT, 0)} correct"
        line += f"  trained on {trained.get('original', 0)}+{trained.get('constructed', 0)}  {seconds:5.1f} s"
        self._console.print(line, highlight=False, soft_wrap=True)
