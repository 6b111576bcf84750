"""The ledger: a file beside the database that says which stages were committed.

A damaged write-ahead log can cost DuckDB committed rows without a word. The ledger is written after the commit, outside
the database, so that such a loss is seen when the store is opened next.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tapo_core.errors import IntegrityError, TransientError
from tapo_core.ids import canonical_json
from tapo_core.store.commits import StageCommit, read_commits

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the ledger."""

    seq: int
    run_id: str
    iteration: int
    stage: str
    chain_digest: str
    committed_at: str


def _complete_lines(path: Path) -> bytes:
    """The ledger's bytes up to its last line end. What follows is an append that a crash cut short."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def read_ledger(path: Path) -> list[LedgerEntry]:
    """The entries of a ledger; none when there is no file.

    Raises:
        IntegrityError: for a line that is not the entry that belongs there.
    """
    entries = []
    for number, line in enumerate(_complete_lines(path).splitlines(), start=1):
        try:
            entry = LedgerEntry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"{path} line {number} is no ledger entry: {error}. Restore the file.") from error
        if entry.seq != number:
            raise IntegrityError(
                f"{path} line {number} is about commit {entry.seq}: lines are missing. Restore the file."
            )
        entries.append(entry)
    return entries


def append_to_ledger(path: Path, commits: Sequence[StageCommit]) -> None:
    """Write one line for each commit, and see it on disk.

    Raises:
        TransientError: when the file cannot be written. The commits stand; the next open adds what is missing.
    """
    lines = [
        canonical_json(
            LedgerEntry(
                commit.seq, commit.run_id, commit.iteration, commit.stage, commit.chain_digest, commit.committed_at
            )
        )
        for commit in commits
    ]
    complete = len(_complete_lines(path))
    try:
        is_new = not path.exists()
        with path.open("ab") as file:
            file.truncate(complete)
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise TransientError(f"{path} cannot be written: {error}. The stage can be run again.") from error


def compare_with_ledger(
    connection: duckdb.DuckDBPyConnection, entries: Sequence[LedgerEntry], path: Path
) -> list[StageCommit]:
    """Hold the ledger against the database. Returns the commits that the ledger does not have yet.

    Raises:
        IntegrityError: when the database lacks a stage that the ledger has.
    """
    known = dict(connection.execute("SELECT seq, chain_digest FROM stage_commit").fetchall())
    for entry in entries:
        if known.get(entry.seq) != entry.chain_digest:
            raise lost_stage(entry, path)
    return read_commits(connection, "seq > ?", [len(entries)])


def lost_stage(entry: LedgerEntry, path: Path) -> IntegrityError:
    """The error for a ledger entry without its commit."""
    return IntegrityError(
        f"the store lost a committed stage: {path} has stage {entry.stage} of iteration {entry.iteration} "
        f"(commit {entry.seq}, {entry.committed_at}), the database beside it does not. "
        "Restore the database from a backup; do not resume on it."
    )


def repair_ledger(path: Path, missing: Sequence[StageCommit]) -> None:
    """Add the commits that a crash kept out of the ledger. One is what a crash can leave; more are worth a warning."""
    if len(missing) > 1:
        _log.warning("%s lacked %d commits, which one crash cannot explain; they were added", path, len(missing))
    if missing:
        append_to_ledger(path, missing)
