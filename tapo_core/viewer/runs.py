"""Which runs the viewer shows, and their snapshots."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from tapo_core.errors import UserError
from tapo_core.store import StageCommit
from tapo_core.store.view_snapshots import Connection, Snapshots

T = TypeVar("T")


class NotThereError(UserError):
    """What an address names is not there. The message says what is."""


class Runs:
    """Runs by name, which is their folder's. A name in an address is looked up here, and never becomes a path."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """`folders`: each a run's, or one whose folders are runs. The latter is looked through again at every question."""
        self.folders = tuple(folders)
        self._lock = threading.Lock()
        self._snapshots: dict[Path, Snapshots] = {}

    def found(self) -> dict[str, Path]:
        """The folder of every run, by name.

        Raises:
            UserError: two runs have the same name.
        """
        runs: dict[str, Path] = {}
        for folder in self.folders:
            inside = (
                [folder] if (folder / "store").is_dir() else sorted(store.parent for store in folder.glob("*/store"))
            )
            for run in inside:
                name = run.resolve().name
                if runs.setdefault(name, run).resolve() != run.resolve():
                    raise UserError(f"{runs[name]} and {run}: two runs with one name; show them with two `tapo view`")
        return runs

    def folder(self, run: str) -> Path:
        """The folder of a run.

        Raises:
            NotThereError: there is none of this name.
        """
        runs = self.found()
        if run not in runs:
            there = ", ".join(sorted(runs)) or "no run at all"
            raise NotThereError(f"no run is called {run!a}; there is {there}")
        return runs[run]

    def _of(self, run: str) -> Snapshots:
        folder = self.folder(run)
        with self._lock:
            return self._snapshots.setdefault(folder, Snapshots(folder))

    def commits(self, run: str) -> list[StageCommit]:
        """What is committed of a run, by number.

        Raises:
            NotThereError, UserError, IntegrityError: see `folder` and `Snapshots.commits`.
        """
        return self._of(run).commits()

    @contextlib.contextmanager
    def open(
        self, run: str, iterations: Collection[int] | None = None, only: Collection[str] | None = None
    ) -> Iterator[Connection]:
        """A connection to a run's snapshot, of some iterations or (slow on a large run) of all. See `Snapshots.open`.

        Raises:
            NotThereError, UserError, IntegrityError: see `folder` and `Snapshots.open`.
        """
        with self._of(run).open(iterations, only) as connection:
            yield connection

    def remembered(self, run: str, only: Collection[str], read: Callable[[Connection], T]) -> T:
        """What a function reads from some tables of a run, once for each state of them. See `Snapshots.remembered`.

        Raises:
            NotThereError, UserError, IntegrityError: see `folder` and `Snapshots.open`.
        """
        return self._of(run).remembered(only, read)


def _runs_of(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


#: How a page asks for the runs: ``def page(request: Request, runs: RunsHere) -> Response``.
RunsHere = Annotated[Runs, Depends(_runs_of)]
