"""Snapshots of a run that are kept open, for who asks many small questions of it, as the viewer does.

Opening costs more than most questions, and on a run of a million rollouts a question about one iteration must not open the
files of all the others. So a snapshot is of some iterations (or of all), and is used again until the ledger has a commit that it
lacks.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import ledger_path
from tapo_core.store.reader import readable_files
from tapo_core.store.snapshot import of_iterations, open_reader, snapshot_commits

#: A connection that is locked down, for who may not import duckdb.
Connection = duckdb.DuckDBPyConnection

_MOST_OPEN = 16  #: snapshots of one run; the one that was not used for longest is closed
_REDACTION = "redact-"  #: how the stage begins that changes files of other commits


T = TypeVar("T")

#: Iterations and tables of a snapshot; None: all.
_What = tuple[frozenset[int] | None, frozenset[str] | None]


@dataclass(slots=True)
class _Opened:
    connection: Connection
    newest: str | None  #: chain digest of the last commit that it has rows of
    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[Callable[[Connection], Any], Any] = field(default_factory=dict)


class Snapshots:
    """The snapshots of one run. Safe to use from several threads: a snapshot answers one of them at a time."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder
        self._lock = threading.Lock()
        self._ledger: tuple[int, int, int] | None = None
        self._commits: list[StageCommit] = []
        self._opened: OrderedDict[_What, _Opened] = OrderedDict()

    def commits(self) -> list[StageCommit]:
        """The commits that are in the ledger now. It is read again when its file has changed.

        Raises:
            UserError, IntegrityError: see `snapshot_commits`.
        """
        with self._lock:
            return self._read_commits()

    def _read_commits(self) -> list[StageCommit]:
        path = ledger_path(self.folder)
        now = None
        if path.exists():
            stat = path.stat()
            now = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if now is None or now != self._ledger:
            self._commits = snapshot_commits(self.folder)
            self._ledger = now
        return self._commits

    @contextlib.contextmanager
    def open(
        self, iterations: Collection[int] | None = None, only: Collection[str] | None = None
    ) -> Iterator[Connection]:
        """A connection to what is committed now, for the caller alone until the block ends.

        `iterations`: see `of_iterations`; all when None. `only`: these tables and views and no others.

        Raises:
            UserError: see `snapshot_commits`.
            IntegrityError: see `snapshot_commits`; or a published file is missing or damaged.
        """
        what = (None if iterations is None else frozenset(iterations), None if only is None else frozenset(only))
        opened = self._get(what)
        with opened.lock, readable_files(self.folder):
            yield opened.connection

    def remembered(self, only: Collection[str], read: Callable[[Connection], T]) -> T:
        """What a function reads from some tables of the whole run; read again only when one of them has new rows.

        Raises:
            UserError, IntegrityError: see `open`.
        """
        opened = self._get((None, frozenset(only)))
        with opened.lock, readable_files(self.folder):
            if read not in opened.answers:
                opened.answers[read] = read(opened.connection)
            answer: T = opened.answers[read]
            return answer

    def _get(self, what: _What) -> _Opened:
        iterations, only = what
        wanted = None if iterations is None else of_iterations(iterations)
        with self._lock:
            commits = self._read_commits()
            # A redaction changes files of other commits.
            seen = [
                commit.chain_digest
                for commit in commits
                if commit.stage.startswith(_REDACTION)
                or any((wanted is None or wanted(commit, t)) and (only is None or t in only) for t in commit.row_counts)
            ]
            newest = seen[-1] if seen else None
            found = self._opened.get(what)
            if found is None or found.newest != newest:
                connection = open_reader(self.folder, wanted=wanted, only=only, commits=commits)
                found = self._opened[what] = _Opened(connection, newest)
            self._opened.move_to_end(what)
            while len(self._opened) > _MOST_OPEN:
                self._opened.popitem(last=False)  # who still asks it holds it open
            return found
