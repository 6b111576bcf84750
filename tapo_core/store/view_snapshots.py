"""Snapshots of a run that are kept open, for who asks many small questions of it, as the viewer does.

Opening costs more than most questions, and on a run of a million rollouts a question about one iteration must not open the files
of all the others. So a snapshot is of some iterations (or of all), and is used again until a commit that it lacks is in the ledger.
"""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import ledger_path
from tapo_core.store.reader import readable_files
from tapo_core.store.snapshot import open_reader, snapshot_commits

#: A connection that is locked down, for who may not import duckdb.
Connection = duckdb.DuckDBPyConnection

#: Tables whose rows belong to the whole run, and are needed with any iteration.
_WHOLE = ("run", "config", "query", "origin", "redaction")
_MOST_OPEN = 8  #: snapshots of one run; the one that was not used for longest is closed
_REDACTION = "redact-"  #: how the stage begins that changes files of other commits


@dataclass(slots=True)
class _Opened:
    connection: Connection
    lock: threading.Lock = field(default_factory=threading.Lock)


class Snapshots:
    """The snapshots of one run. Safe to use from several threads: a snapshot answers one of them at a time."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder
        self._lock = threading.Lock()
        self._ledger: tuple[int, int, int] | None = None
        self._commits: list[StageCommit] = []
        self._opened: OrderedDict[tuple[frozenset[int] | None, str], _Opened] = OrderedDict()

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
    def open(self, iterations: Collection[int] | None = None) -> Iterator[Connection]:
        """A connection to what is committed now, for the caller alone until the block ends.

        `iterations`: only rows of their commits are there (those of an iteration's policy version, its rollouts and all that came of
        them), with the queries, the configuration, and the policy version that they were sampled from.

        Raises:
            UserError: see `snapshot_commits`.
            IntegrityError: see `snapshot_commits`; or a published file is missing or damaged.
        """
        chosen = None if iterations is None else frozenset(iterations)
        opened = self._get(chosen)
        with opened.lock, readable_files(self.folder):
            yield opened.connection

    def _get(self, iterations: frozenset[int] | None) -> _Opened:
        with self._lock:
            commits = self._read_commits()

            def wanted(commit: StageCommit, table: str) -> bool:
                if iterations is None or table in _WHOLE:
                    return True
                return commit.iteration in iterations or (
                    table == "policy_version" and commit.iteration + 1 in iterations
                )

            seen = [c for c in commits if any(wanted(c, t) for t in c.row_counts) or c.stage.startswith(_REDACTION)]
            key = (iterations, seen[-1].chain_digest if seen else "")
            if key not in self._opened:
                for stale in [other for other in self._opened if other[0] == iterations]:
                    del self._opened[stale]
                connection = open_reader(self.folder, wanted=wanted, commits=commits)
                self._opened[key] = _Opened(connection)
            self._opened.move_to_end(key)
            while len(self._opened) > _MOST_OPEN:
                self._opened.popitem(last=False)  # who still asks it holds it open
            return self._opened[key]
