"""Publication: every committed stage once more as Parquet files, which readers take instead of the database.

``published/<table>/iteration=<n>/<seq>-<stage>.parquet`` holds the rows that a stage brought into a table, ordered by key.
Ids are text, times UTC. A file is never changed after it has this name, but for a redaction, which replaces it (`redact`).

A crash may come between any two of these steps (all under DuckDB's file lock):

1. within the transaction: every file is written whole under ``publishing/``, and fsynced; its name carries the commit's
   number and content digest
2. COMMIT, CHECKPOINT
3. the files are renamed into place, and the folders fsynced
4. the line in the ledger, fsynced

Readers go by the ledger, so a file in place without its line does not exist for them, and a line always has its files.
Whoever writes next finishes what was begun: before 2 there is no such commit, and the temporaries are deleted; after it the
commit is there, and 3 and 4 are done. Should the temporaries be gone as well (power loss), the rows come from the
database, held against the content digest.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.parquet

from tapo_core.errors import IntegrityError, TransientError
from tapo_core.files import fsync
from tapo_core.records import Redaction
from tapo_core.store.batches import Batch, rows_digest
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import database_path, published_folder, what_to_do
from tapo_core.store.ledger import LedgerEntry
from tapo_core.store.migrate import column_counts
from tapo_core.store.redaction import Key, Redactions
from tapo_core.store.rows import arrow_schema, keys_and_digests, select_list, to_records
from tapo_core.store.tables import TABLES, Table

TABLES_BY_NAME: dict[str, Table] = {table.name: table for table in TABLES.values()}


def published_file(run_folder: Path, commit: StageCommit, table: str) -> Path:
    """Where the rows that a commit brought into a table are published."""
    return published_folder(run_folder) / _place(commit, table)


def published_files(run_folder: Path, commits: Sequence[StageCommit], table: str) -> list[str]:
    """All files of a table, in the order of the commits. Text: a snapshot names thousands, and a `Path` takes its time."""
    folder = published_folder(run_folder)
    return [f"{folder}/{_place(commit, table)}" for commit in commits if table in commit.row_counts]


def _place(commit: StageCommit, table: str) -> str:
    return f"{table}/iteration={commit.iteration}/{commit.seq:08d}-{commit.stage}.parquet"


def table_at(table: Table, level: int) -> Table:
    """A table as it was after a migration: without the columns that came later."""
    return table.first_columns(column_counts(level)[table.name])


def file_metadata(commit: StageCommit, repeated: Sequence[tuple[Key, str]]) -> dict[str, str]:
    """What a published file says about itself.

    `repeated`: key and digest of the rows that the stage handed in, and that an earlier stage had handed in already. They
    count for the content digest, and are not in the file a second time.
    """
    return {
        "seq": str(commit.seq),
        "stage": commit.stage,
        "iteration": str(commit.iteration),
        "content_digest": commit.content_digest,
        "repeated": json.dumps([[list(key), row_digest] for key, row_digest in repeated]),
    }


class Publisher:
    """Writes the published files of one run folder. All methods are called by who holds the database."""

    def __init__(self, run_folder: Path) -> None:
        self._run_folder = run_folder
        self._temporaries = run_folder / "store" / "publishing"

    def prepare(self, commit: StageCommit, batches: Sequence[Batch], repeated: Mapping[str, set[Key]]) -> None:
        """Step 1, for a commit that is about to be made. `repeated`: by table, keys of rows that are stored already.

        Raises:
            TransientError: a file cannot be written. Nothing is left of it.
        """
        try:
            self._temporaries.mkdir(exist_ok=True)
            for batch in batches:
                again = repeated[batch.table.name]
                rows = batch.rows
                if again:
                    rows = rows.filter(pyarrow.array([key not in again for key in batch.digests]))
                self._write(commit, batch.table, rows, [item for item in batch.digests.items() if item[0] in again])
        except OSError as error:
            for table in commit.row_counts:
                self._temporary(commit, table).unlink(missing_ok=True)
            raise TransientError(
                f"{self._temporaries} cannot be written: {error}. The stage can be run again. Nothing was written."
            ) from error

    def finish(self, commit: StageCommit) -> None:
        """Step 3, for a commit that was made.

        Raises:
            TransientError: a file cannot be renamed. The commit stands; the next open finishes it.
        """
        try:
            for table in commit.row_counts:
                self._rename(self._temporary(commit, table), published_file(self._run_folder, commit, table))
        except OSError as error:
            raise TransientError(
                f"{published_folder(self._run_folder)} cannot be written: {error}. The stage can be run again."
            ) from error

    def recover(
        self, connection: duckdb.DuckDBPyConnection, commits: Sequence[StageCommit], missing: Sequence[LedgerEntry]
    ) -> None:
        """Finish what a crash left, and publish what was written before there was publication.

        `commits`: all that the database has. `missing`: the lines that the ledger will get.

        Raises:
            IntegrityError: the database does not give the rows of a commit that has no file.
        """
        published_folder(self._run_folder).mkdir(exist_ok=True)
        by_name = {self._temporary(c, table).name: (c, table) for c in commits for table in c.row_counts}
        for temporary in self._temporaries.iterdir() if self._temporaries.exists() else ():
            if temporary.name in by_name:
                place = published_file(self._run_folder, *by_name[temporary.name])
                if not place.exists():
                    self._rename(temporary, place)
                    continue
            temporary.unlink()
        self._publish_from_database(connection, commits, {entry.seq: entry.migration or 1 for entry in missing})

    def replace(self, commit: StageCommit, table: Table, rows: pyarrow.Table, repeated: Mapping[Key, str]) -> None:
        """Put a file with redacted rows in the place of a published one. (A temporary that a crash leaves is deleted.)"""
        self._write(commit, table, rows, list(repeated.items()))
        self._rename(self._temporary(commit, table.name), published_file(self._run_folder, commit, table.name))

    def has_temporaries(self) -> bool:
        """Whether a crash, or a stage that was refused, left something."""
        return self._temporaries.exists() and any(self._temporaries.iterdir())

    def _publish_from_database(
        self, connection: duckdb.DuckDBPyConnection, commits: Sequence[StageCommit], levels: Mapping[int, int]
    ) -> None:
        """Publish the commits with a level, if they lack a file.

        Tables keep the order of insertion, so a commit's rows are the next ones.
        """
        redactions = stored_redactions(connection)
        stored: dict[str, pyarrow.Table] = {}
        taken = dict.fromkeys(TABLES_BY_NAME, 0)
        for commit in commits:
            files = {name: published_file(self._run_folder, commit, name) for name in commit.row_counts}
            if commit.seq not in levels or all(file.exists() for file in files.values()):
                for name, file in files.items():
                    there = file.exists()
                    taken[name] += pyarrow.parquet.read_metadata(file).num_rows if there else commit.row_counts[name]
                continue
            rows: dict[str, pyarrow.Table] = {}
            digests: dict[str, dict[Key, str]] = {}
            for name, count in commit.row_counts.items():
                table = table_at(TABLES_BY_NAME[name], levels[commit.seq])
                if name not in stored:
                    sql = f"SELECT {select_list(TABLES_BY_NAME[name])} FROM {name} ORDER BY rowid"
                    stored[name] = connection.sql(sql).to_arrow_table()
                mine = stored[name].slice(taken[name], count).select(table.column_names)
                rows[name] = mine.cast(arrow_schema(table)).sort_by([(key, "ascending") for key in table.key])
                digests[name] = dict(keys_and_digests(table, rows[name]))
                taken[name] += count
            if rows_digest(redactions.as_committed(digests)) != commit.content_digest:
                raise IntegrityError(
                    f"stage {commit.stage} of iteration {commit.iteration} (commit {commit.seq}) has no published files, and "
                    f"its rows in the database do not give its digest. {what_to_do(database_path(self._run_folder))}"
                )
            for name, mine in rows.items():
                self._write(commit, TABLES_BY_NAME[name], mine, ())
            self.finish(commit)

    def _temporary(self, commit: StageCommit, table: str) -> Path:
        return self._temporaries / f"{commit.seq:08d}-{commit.content_digest}-{table}.parquet"

    def _write(
        self, commit: StageCommit, table: Table, rows: pyarrow.Table, repeated: Sequence[tuple[Key, str]]
    ) -> None:
        self._temporaries.mkdir(exist_ok=True)
        with self._temporary(commit, table.name).open("wb") as file:
            described = rows.replace_schema_metadata(file_metadata(commit, repeated))
            pyarrow.parquet.write_table(described, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())

    def _rename(self, temporary: Path, place: Path) -> None:
        missing = [folder for folder in (place.parent, place.parent.parent) if not folder.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, place)
        fsync(place.parent)
        for folder in missing:
            fsync(folder.parent)


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """What a published file holds."""

    rows: pyarrow.Table
    digests: dict[Key, str]  #: of the rows, in the file's order
    metadata: dict[str, str]
    repeated: dict[Key, str]  #: see `file_metadata`


def read_published(file: Path, table: Table) -> PublishedFile:
    """A published file. `table`: with the columns that it had when the file was written (`table_at`).

    Raises:
        OSError, ValueError, TypeError, KeyError: it is no such file. (pyarrow's errors are among them.)
    """
    with pyarrow.parquet.ParquetFile(file) as parquet:
        rows = parquet.read(use_threads=False)
    metadata = {name.decode(): value.decode() for name, value in (rows.schema.metadata or {}).items()}
    rows = rows.replace_schema_metadata(None)
    expected = arrow_schema(table)
    if rows.schema != expected:
        raise ValueError(f"its columns are {one_line_schema(rows.schema)}, not {one_line_schema(expected)}")
    repeated = {tuple(key): row_digest for key, row_digest in json.loads(metadata["repeated"])}
    return PublishedFile(rows, dict(row_digests(table, rows)), metadata, repeated)


def published_redactions(run_folder: Path, commits: Sequence[StageCommit]) -> Redactions:
    """The redactions of a run's commits. Files that do not give their commit's digest say nothing (an audit names them)."""
    table = TABLES[Redaction]
    rows: list[Redaction] = []
    for commit in commits:
        if table.name in commit.row_counts:
            try:
                found = read_published(published_file(run_folder, commit, table.name), table)
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if rows_digest({table.name: found.digests}) == commit.content_digest:
                rows += to_records(table, [tuple(row.values()) for row in found.rows.to_pylist()])
    return Redactions(rows)


def stored_redactions(connection: duckdb.DuckDBPyConnection) -> Redactions:
    """The redactions that a database has."""
    table = TABLES[Redaction]
    found = connection.execute(f"SELECT {select_list(table)} FROM {table.name} ORDER BY rowid").fetchall()
    return Redactions(to_records(table, found))


def one_line_schema(schema: pyarrow.Schema) -> str:
    """The names and types of columns."""
    return ", ".join(f"{column.name} {column.type}" for column in schema)


def row_digests(table: Table, rows: pyarrow.Table) -> list[tuple[Key, str]]:
    """`keys_and_digests` of rows that may hold what the store would have refused; such a row gets a digest that none has."""
    try:
        return keys_and_digests(table, rows)
    except (ValueError, TypeError, AttributeError):
        if len(rows) > 1:
            return [item for index in range(len(rows)) for item in row_digests(table, rows.slice(index, 1))]
        return [(tuple(rows.column(name)[0].as_py() for name in table.key), "not a row that could be stored")]
