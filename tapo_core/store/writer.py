"""Writing a stage: one short-lived connection, one transaction, its published files, one line in the ledger."""

import contextlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tapo_core.errors import IntegrityError, StoreLockedError, TransientError, UserError
from tapo_core.ids import canonical_json
from tapo_core.store.batches import Batch, batches_digest, insert_batch, make_batches
from tapo_core.store.commits import StageCommit, append_commit, find_commit, read_commits
from tapo_core.store.connection import (
    LOCK_SECONDS,
    WRITER_CONFIG,
    connect,
    database_path,
    ledger_path,
    no_run,
    published_folder,
    what_to_do,
)
from tapo_core.store.ledger import (
    LedgerEntry,
    append_to_ledger,
    compare_with_ledger,
    ledger_entry,
    lost_stage,
    missing_entries,
    read_ledger,
    rewrite_ledger,
)
from tapo_core.store.migrate import apply_migrations, level_at, shipped_migrations
from tapo_core.store.parents import check_not_redacted, check_parents
from tapo_core.store.publish import Publisher
from tapo_core.store.tables import Record
from tapo_core.text import one_line

#: What a stage takes on disk, for each byte of its rows in memory: write-ahead log, database and Parquet.
_DISK_FACTOR = 3

#: Within one process DuckDB shares one instance of a file among all threads: no file lock keeps their commits apart.
_one_writer_in_this_process = threading.Lock()


def _check_run(connection: duckdb.DuckDBPyConnection, run_id: str, batches: Sequence[Batch]) -> None:
    """Every row belongs to the run of its commit, and that run is in the store."""
    for batch in batches:
        if "run_id" in batch.table.column_names:
            others = set(batch.rows.column("run_id").to_pylist()) - {run_id}
            if others:
                raise IntegrityError(
                    f"{batch.table.name}: a stage of run {run_id} hands in rows of run {min(others)}. "
                    "Nothing was written."
                )
    if connection.execute("SELECT 1 FROM run WHERE run_id = ?", [run_id]).fetchone() is None:
        raise IntegrityError(f"run {run_id} is not in run: its first stage must hand in the Run. Nothing was written.")


class StoreWriter:
    """Writes the stages of one run folder: ``trajectories.duckdb``, ``published/`` and ``ledger.jsonl`` in its ``store/``.

    Each call opens the database, does its work and closes it again. One that `keeps_open` leaves it open for the next call, until
    `release`, or until something fails: who opens it again then finds, and finishes, what was left undone.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        lock_seconds: float = LOCK_SECONDS,
        min_free_bytes: int = 64 * 2**20,
        keeps_open: bool = False,
    ) -> None:
        """`lock_seconds`: how long a call waits for others. `min_free_bytes`: what must stay free on disk
        beside the stage itself; with less, nothing is written. `keeps_open`: opening takes as long as a small stage's commit.
        """
        self._run_folder = run_folder
        self._database = database_path(run_folder)
        self._ledger = ledger_path(run_folder)
        self._publisher = Publisher(run_folder)
        self._lock_seconds = lock_seconds
        self._min_free_bytes = min_free_bytes
        self._keeps_open = keeps_open
        self._kept: duckdb.DuckDBPyConnection | None = None

    def migrate(self) -> None:
        """Create the store, or bring one of an older version up to date: its tables, and its published files.

        Raises:
            UserError, TransientError, IntegrityError: see `commit_stage`.
        """
        with self._open():
            pass

    def commit_stage(
        self,
        *,
        run_id: str,
        iteration: int,
        stage: str,
        config_digest: str,
        input_digest: str,
        manifest: dict[str, Any],
        records: Sequence[Record],
    ) -> StageCommit:
        """Write all that a stage made, in one transaction. A stage that is there already is returned as it is.

        `records` may mix classes in any order. Rows that are in the store with the same content are left alone.

        Raises:
            UserError: the folder cannot be written to.
            TransientError: locked (`StoreLockedError`), or short of disk or memory. The stage can be run again.
            IntegrityError: a row that contradicts the store, lacks a parent or cannot be stored; a stage that was
                committed with another config or input; a store that lost a stage. Nothing was written.
            TypeError: a record or a manifest of a kind that cannot be stored.
        """
        manifest = json.loads(canonical_json(manifest))  # as a later reader will find it
        batches = make_batches(records)
        with self._open() as connection:
            stored = find_commit(connection, run_id, iteration, stage)
            if stored is not None:
                _check_same_inputs(stored, config_digest, input_digest)
                return stored
            self._check_free_space(batches)
            connection.begin()
            repeated = {batch.table.name: insert_batch(connection, batch) for batch in batches}
            for batch in batches:
                check_parents(connection, batch)
                check_not_redacted(connection, batch.table, batch.incoming)
            _check_run(connection, run_id, batches)
            commit = append_commit(
                connection,
                run_id=run_id,
                iteration=iteration,
                stage=stage,
                config_digest=config_digest,
                input_digest=input_digest,
                manifest=manifest,
                row_counts={batch.table.name: len(batch.rows) for batch in batches},
                content_digest=batches_digest(batches),
            )
            self._publisher.prepare(commit, batches, repeated)
            for batch in batches:
                connection.execute(f"DROP TABLE {batch.incoming}")  # temporary, of the connection, which may be kept
            connection.commit()
            connection.execute("CHECKPOINT")  # a write-ahead log left behind is what a crash can damage
            # Still under DuckDB's file lock, or the next writer would find the rest undone and do it a second time.
            self._publisher.finish(commit)
            append_to_ledger(self._ledger, [ledger_entry(commit, shipped_migrations()[-1].version)])
            return commit

    def commits(self, run_id: str) -> list[StageCommit]:
        """All commits of a run, in the order they were made.

        Raises:
            UserError, TransientError, IntegrityError: see `commit_stage`.
        """
        with self._open() as connection:
            return read_commits(connection, "run_id = ?", [run_id])

    def connection(self) -> duckdb.DuckDBPyConnection:
        """The database that is kept open, for questions between two stages; nobody else can open it before `release`.

        Raises:
            TypeError: of a writer that keeps nothing open.
            UserError: no store is there. TransientError, IntegrityError: see `commit_stage`.
        """
        if not self._keeps_open:
            raise TypeError("this StoreWriter closes the database after each call")
        if not self._database.exists() and not read_ledger(self._ledger):
            raise no_run(self._run_folder)
        with self._open() as connection:
            return connection

    def release(self) -> None:
        """Close the database if it was kept open, so that others can write; the next call opens it again."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()

    @contextlib.contextmanager
    def _open(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """The database, migrated, published and in agreement with its ledger. Leaving without a commit rolls back."""
        self._make_folder()
        if not _one_writer_in_this_process.acquire(timeout=self._lock_seconds):
            raise StoreLockedError(f"{self._database} is held by another thread of this process (PID {os.getpid()})")
        try:
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(self.release)
                with _named_failures(self._database):
                    yield self._kept or self._connect()
                if self._keeps_open:
                    on_failure.pop_all()
        finally:
            _one_writer_in_this_process.release()

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """Open the database; whoever asked for it releases it again, also if this fails half-way."""
        if not self._database.exists():
            entries = read_ledger(self._ledger)
            if entries:
                raise lost_stage(entries[-1], self._ledger)
        self._kept = connection = connect(
            self._database, read_only=False, config=WRITER_CONFIG, lock_seconds=self._lock_seconds
        )
        # Not earlier: while we waited for the file, its holder may have added a line.
        entries = read_ledger(self._ledger)
        unlisted = compare_with_ledger(connection, entries, self._ledger)
        apply_migrations(connection, shipped_migrations())
        self._finish_publication(connection, entries, unlisted)
        return connection

    def _finish_publication(
        self, connection: duckdb.DuckDBPyConnection, entries: Sequence[LedgerEntry], unlisted: Sequence[StageCommit]
    ) -> None:
        """Do what a crash, or an older version of TAPO, left undone. Most often that is nothing."""
        missing = missing_entries(connection, unlisted, self._ledger)
        is_old = any(entry.migration is None for entry in entries)
        if not (is_old or missing or self._publisher.has_temporaries()):
            published_folder(self._run_folder).mkdir(exist_ok=True)
            return
        commits = read_commits(connection)
        if is_old:
            levels = {entry.seq: entry.migration for entry in entries}
            missing = [ledger_entry(c, levels.get(c.seq) or level_at(connection, c.committed_at)) for c in commits]
        self._publisher.recover(connection, commits, missing)
        if is_old:
            rewrite_ledger(self._ledger, missing)
        elif missing:
            append_to_ledger(self._ledger, missing)

    def _make_folder(self) -> None:
        folder = self._database.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the store's folder {folder} cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise UserError(f"the store's folder {folder} cannot be written to: change its owner or its permissions")

    def _check_free_space(self, batches: Sequence[Batch]) -> None:
        free = shutil.disk_usage(self._database.parent).free
        needed = self._min_free_bytes + _DISK_FACTOR * sum(batch.rows.nbytes for batch in batches)
        if free < needed:
            raise TransientError(
                f"{self._database.parent} has {free / 2**20:.0f} MiB free, less than the {needed / 2**20:.0f} MiB that "
                "this stage may need. Make room, then run the stage again. Nothing was written."
            )


#: How DuckDB speaks of a file that is not what it wrote, apart from a disk that is full or gone.
_is_damage = re.compile(
    r"(?i)corrupt|checksum|could not read enough|deserializ|not a valid duckdb|replaying wal"
).search


@contextlib.contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """DuckDB's failures as ours: what may pass, and what contradicts the schema. A wrong statement stays a bug."""
    try:
        yield
    except duckdb.ConstraintException as error:
        raise IntegrityError(f"{path}: {one_line(error)}. Nothing was written.") from error
    except (duckdb.SerializationException, duckdb.InternalException) as error:
        raise _damage(path, error) from error
    except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException) as error:
        if _is_damage(str(error)):
            raise _damage(path, error) from error
        raise TransientError(f"{path}: DuckDB stopped: {one_line(error)}. The stage can be run again.") from error


def _damage(path: Path, error: duckdb.Error) -> IntegrityError:
    return IntegrityError(f"{path} is damaged: {one_line(error)}. {what_to_do(path)}")


def _check_same_inputs(stored: StageCommit, config_digest: str, input_digest: str) -> None:
    """A stage is made once; asking for it again with other inputs is asking for another stage."""
    for name, old, new in (
        ("config_digest", stored.config_digest, config_digest),
        ("input_digest", stored.input_digest, input_digest),
    ):
        if old != new:
            raise IntegrityError(
                f"stage {stored.stage} of iteration {stored.iteration} was committed with {name} {old} and is now "
                f"asked for with {new}. Start a new run for other settings or data."
            )
