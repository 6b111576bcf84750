"""A database made anew from the published files, where it was damaged and they are whole."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tapo_core.errors import IntegrityError, TransientError
from tapo_core.files import fsync
from tapo_core.store.audit import verify
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import LOCK_SECONDS, WRITER_CONFIG, connect, database_path
from tapo_core.store.findings import Finding
from tapo_core.store.migrate import apply_migrations, shipped_migrations
from tapo_core.store.publish import TABLES_BY_NAME
from tapo_core.store.snapshot import register_tables, snapshot_commits

_PARTS_TO_TRUST = ("ledger", "published")


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did."""

    faults: list[Finding]  #: of the database; none: nothing was done
    kept: Path | None  #: the damaged database, as it was; None when there was none


def repair(run_folder: Path, *, lock_seconds: float = LOCK_SECONDS) -> Repair:
    """Make the database anew if it does not agree with ledger and published files, and these agree with each other.

    The damaged file (and its write-ahead log) keeps its content under a name that says so.

    Raises:
        IntegrityError: ledger or published files are damaged too; the message has the first fault. Nothing was changed.
        TransientError: the database is held (`StoreLockedError`), or the disk is short. Nothing was changed.
        UserError: no store there, or one of an older version.
    """
    report = verify(run_folder, lock_seconds=lock_seconds)
    # A file that no commit has may be left by a crash just before its line in the ledger; it is not read.
    broken = [f for f in report.faults if f.part in _PARTS_TO_TRUST and not (f.kind == "added" and f.table is None)]
    if broken:
        raise IntegrityError(
            f"the database cannot be made anew, because {len(broken)} things are wrong with what it would be made from: "
            f"{broken[0].line}. Restore the run's folder from a backup. Nothing was changed."
        )
    faults = [finding for finding in report.faults if finding.part == "database"]
    if not faults:
        return Repair([], None)
    return Repair(faults, rebuild(run_folder, lock_seconds=lock_seconds, keep=True))


def rebuild(run_folder: Path, *, lock_seconds: float, keep: bool) -> Path | None:
    """Make the database anew from ledger and published files, and hold it against them before it takes its place.

    `keep`: whether the old one, with its write-ahead log, gets another name, which is returned; else it is deleted.

    Raises:
        IntegrityError: the new database is not what was written. Nothing was changed.
        TransientError: the database is held (`StoreLockedError`), or the disk is short. Nothing was changed.
    """
    path = database_path(run_folder)
    new = path.with_name(f"{path.name}.new")
    _remove(new)
    try:
        with _held(path, lock_seconds):
            _build(run_folder, new, snapshot_commits(run_folder))
            left = [f for f in verify(run_folder, database=new, checkpoints=False).faults if f.part == "database"]
            if left:
                raise IntegrityError(f"the new database is not what was written: {left[0].line}. Nothing was changed.")
        kept = _set_aside(path) if keep else None
        _log(path).unlink(missing_ok=True)
        os.replace(new, path)
        fsync(path.parent)
    except (OSError, duckdb.IOException) as error:
        raise TransientError(f"{new} cannot be written: {error}. The database is as it was.") from error
    finally:
        _remove(new)
    return kept


def damaged_copies(run_folder: Path) -> list[Path]:
    """The databases that repairs set aside, with their logs, and one that was begun."""
    path = database_path(run_folder)
    return sorted([*path.parent.glob(f"{path.name}.damaged-*"), *path.parent.glob(f"{path.name}.new*")])


@contextlib.contextmanager
def _held(path: Path, lock_seconds: float) -> Iterator[None]:
    """Keep writers away while the new file is made, if the damaged one still can be opened."""
    connection = None
    if path.exists():
        with contextlib.suppress(IntegrityError):
            connection = connect(path, read_only=True, config=WRITER_CONFIG, lock_seconds=lock_seconds)
    try:
        yield
    finally:
        if connection is not None:
            connection.close()


def _build(run_folder: Path, new: Path, commits: list[StageCommit]) -> None:
    """All rows in the order in which they were committed."""
    with contextlib.closing(duckdb.connect(new, config=WRITER_CONFIG)) as connection:
        apply_migrations(connection, shipped_migrations())
        register_tables(connection, run_folder, commits)
        connection.begin()
        for table in TABLES_BY_NAME.values():
            columns = ", ".join(f"CAST({column.name} AS {column.sql_type})" for column in table.columns)
            connection.execute(f"INSERT INTO {table.name} SELECT {columns} FROM published_{table.name}")
        connection.execute("INSERT INTO stage_commit SELECT * FROM published_stage_commit ORDER BY seq")
        connection.commit()
        connection.execute("CHECKPOINT")


def _set_aside(path: Path) -> Path | None:
    """Rename a damaged database, and first its log, which the new one must not find. Returns the new name."""
    number = 1
    while path.with_name(f"{path.name}.damaged-{number}").exists():
        number += 1
    kept = path.with_name(f"{path.name}.damaged-{number}")
    log = _log(path)
    if log.exists():
        os.replace(log, _log(kept))
    if not path.exists():
        return None
    os.replace(path, kept)
    return kept


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _remove(path: Path) -> None:
    for file in (path, _log(path)):
        file.unlink(missing_ok=True)
