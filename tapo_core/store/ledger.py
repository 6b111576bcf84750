"""The ledger: a file beside the database that says which stages were committed.

A damaged write-ahead log can cost DuckDB committed rows without a word. The ledger is written after the commit, outside
the database, so that such a loss is seen when the store is opened next. Its lines are whole stage commits: readers take
from it which files belong to a snapshot, and a repair takes from it what the rows alone do not say.
"""

import json
import logging
import operator
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import duckdb

from tapo_core.errors import IntegrityError, TransientError
from tapo_core.files import fsync
from tapo_core.ids import canonical_json
from tapo_core.store.commits import StageCommit, read_commits
from tapo_core.store.connection import database_path, what_to_do
from tapo_core.store.migrate import level_at

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the ledger. What may be None is missing in lines that were written before stages were published."""

    seq: int
    run_id: str
    iteration: int
    stage: str
    chain_digest: str
    committed_at: str
    config_digest: str | None = None
    input_digest: str | None = None
    manifest: dict[str, Any] | None = None
    row_counts: dict[str, int] | None = None
    content_digest: str | None = None
    previous_digest: str | None = None
    migration: int | None = None  #: the newest migration when the stage was written: it tells the columns of its rows

    @property
    def commit(self) -> StageCommit | None:
        """The whole commit; None in a line of an old ledger."""
        if self.migration is None:
            return None
        return StageCommit(*_commit_values(self))


_commit_values = operator.attrgetter(*(field.name for field in fields(StageCommit)))


def ledger_entry(commit: StageCommit, migration: int) -> LedgerEntry:
    """The line about a commit."""
    return LedgerEntry(**asdict(commit), migration=migration)


def _complete_lines(path: Path) -> bytes:
    """The ledger's bytes up to its last line end. What follows is an append that a crash cut short."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def read_lines(path: Path) -> list[LedgerEntry | IntegrityError]:
    """The ledger line by line; in place of a line that is not the entry that belongs there, the error that says so."""
    content = _complete_lines(path)
    known, found = _read_before.get(path, (b"", []))
    if not content.startswith(known):
        known, found = b"", []
    found = found + _parse(path, content[len(known) :], first=len(found) + 1)
    _read_before[path] = content, found
    return found


#: Content and lines of ledgers that this process read. A ledger grows at its end, and its writer reads it at each commit:
#: without this, the thousandth commit would parse a thousand lines. Anything but growth is read anew.
_read_before: dict[Path, tuple[bytes, list[LedgerEntry | IntegrityError]]] = {}


def _parse(path: Path, content: bytes, first: int) -> list[LedgerEntry | IntegrityError]:
    found: list[LedgerEntry | IntegrityError] = []
    for number, line in enumerate(content.splitlines(), start=first):
        try:
            entry = LedgerEntry(**json.loads(line))
        except (ValueError, TypeError) as error:
            found.append(IntegrityError(f"{path} line {number} is no ledger entry: {error}. Restore the file."))
            continue
        if entry.seq == number:
            found.append(entry)
        else:
            message = f"{path} line {number} is about commit {entry.seq}: lines are missing. Restore the file."
            found.append(IntegrityError(message))
    return found


def read_ledger(path: Path) -> list[LedgerEntry]:
    """The entries of a ledger; none when there is no file.

    Raises:
        IntegrityError: for a line that is not the entry that belongs there.
    """
    entries = []
    for line in read_lines(path):
        if isinstance(line, IntegrityError):
            raise line
        entries.append(line)
    return entries


def append_to_ledger(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Write one line for each commit, and see it on disk.

    Raises:
        TransientError: when the file cannot be written. The commits stand; the next open adds what is missing.
    """
    complete = len(_complete_lines(path))
    try:
        is_new = not path.exists()
        with path.open("ab") as file:
            file.truncate(complete)
            file.write("".join(canonical_json(entry) + "\n" for entry in entries).encode())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync(path.parent)
    except OSError as error:
        raise TransientError(f"{path} cannot be written: {error}. The stage can be run again.") from error


def rewrite_ledger(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Put a ledger with whole commits in the place of one of an older version."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    append_to_ledger(temporary, entries)
    os.replace(temporary, path)
    fsync(path.parent)


def compare_with_ledger(
    connection: duckdb.DuckDBPyConnection, entries: Sequence[LedgerEntry], path: Path
) -> list[StageCommit]:
    """Hold the ledger against the database. Returns the commits that the ledger does not have yet.

    Raises:
        IntegrityError: when the database lacks a stage that the ledger has.
    """
    try:
        known = dict(connection.execute("SELECT seq, chain_digest FROM stage_commit").fetchall())
    except duckdb.CatalogException:  # no such table: the database is new, or an empty one was put in its place
        if entries:
            raise lost_stage(entries[0], path) from None
        return []
    for entry in entries:
        if known.get(entry.seq) != entry.chain_digest:
            raise lost_stage(entry, path)
    return read_commits(connection, "seq > ?", [len(entries)])


def lost_stage(entry: LedgerEntry, path: Path) -> IntegrityError:
    """The error for a ledger entry without its commit."""
    return IntegrityError(
        f"the store lost a committed stage: {path} has stage {entry.stage} of iteration {entry.iteration} "
        f"(commit {entry.seq}, {entry.committed_at}), the database beside it does not. "
        f"{what_to_do(database_path(path.parent.parent))}"
    )


def missing_entries(
    connection: duckdb.DuckDBPyConnection, missing: Sequence[StageCommit], path: Path
) -> list[LedgerEntry]:
    """The lines that a crash kept out of the ledger. One is what a crash can leave; more are worth a warning."""
    if len(missing) > 1:
        _log.warning("%s lacked %d commits, which one crash cannot explain; they were added", path, len(missing))
    return [ledger_entry(commit, level_at(connection, commit.committed_at)) for commit in missing]
