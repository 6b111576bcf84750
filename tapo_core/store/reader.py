"""Reading a run's store: snapshots for everyone, the database itself for the process that writes it."""

import contextlib
import functools
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import duckdb
import pyarrow

from tapo_core.errors import IntegrityError, UserError
from tapo_core.store.commits import StageCommit, check_chain, find_commit, read_commits
from tapo_core.store.connection import database_path, published_folder, what_to_do
from tapo_core.store.rows import select_list, to_records
from tapo_core.store.snapshot import of_iterations, open_reader, snapshot_commits
from tapo_core.store.tables import TABLES, Record
from tapo_core.store.writer import StoreWriter
from tapo_core.text import one_line

if TYPE_CHECKING:  # pandas takes most of a second to import, and most users of this module never ask for a frame
    import pandas

R = TypeVar("R", bound=Record)

#: Statements that a person may expect to write with. The snapshot is not the store, so they could not; it is better said.
_WRITES = frozenset(
    {
        *(duckdb.StatementType.INSERT, duckdb.StatementType.UPDATE, duckdb.StatementType.DELETE),
        *(duckdb.StatementType.CREATE, duckdb.StatementType.DROP, duckdb.StatementType.ALTER),
        *(duckdb.StatementType.COPY, duckdb.StatementType.EXPORT, duckdb.StatementType.VACUUM),
        *(duckdb.StatementType.ATTACH, duckdb.StatementType.DETACH, duckdb.StatementType.LOAD),
    }
)


def query(run_folder: Path, sql: str, *, limit_seconds: float = 30.0, max_rows: int = 100_000) -> "pandas.DataFrame":
    """The result of a person's SQL, ids as text. Example: ``query(folder, "SELECT * FROM iteration_summary")``.

    Raises:
        UserError: for SQL that is wrong, writes, reaches outside, takes longer than `limit_seconds` or gives more than
            `max_rows` rows; with DuckDB's message in one line.
        IntegrityError: see `open_reader`; or a published file is missing or damaged.
    """
    with contextlib.closing(open_reader(run_folder)) as connection, readable_files(run_folder):
        return ask(connection, sql, limit_seconds=limit_seconds, max_rows=max_rows)


def ask(connection: duckdb.DuckDBPyConnection, sql: str, *, limit_seconds: float, max_rows: int) -> "pandas.DataFrame":
    """The result of a person's SQL on a connection that is locked down already.

    Raises:
        UserError: see `query`.
        duckdb.Error, OSError, pyarrow.ArrowInvalid: a published file cannot be read.
    """
    timer = threading.Timer(limit_seconds, connection.interrupt)
    timer.start()
    try:
        _refuse_writing(sql)
        return _fetch(connection.sql(sql), max_rows)
    except duckdb.InterruptException as error:
        raise UserError(f"the query was stopped after {limit_seconds:g} s: narrow it down") from error
    except duckdb.PermissionException as error:
        raise UserError(f"SQL on a run is read-only and stays inside its store: {one_line(error)}") from error
    except duckdb.Error as error:
        if is_file_error(error):
            raise
        raise UserError(f"SQL: {one_line(error)}") from error
    finally:
        timer.cancel()


def _refuse_writing(sql: str) -> None:
    for statement in duckdb.extract_statements(sql):
        # PIVOT comes with a CREATE of its own, which has no text.
        if statement.type in _WRITES and statement.query:
            raise UserError(f"SQL on a run is read-only: {statement.type.name} is not for it")


def is_file_error(error: Exception) -> bool:
    """Whether Arrow could not read a published file: as DuckDB 1.5 says it, and as 2.0 does."""
    return "arrow_scan" in str(error) or "stream registered as '" in str(error)


@contextlib.contextmanager
def readable_files(run_folder: Path) -> Iterator[None]:
    """A file that is gone or damaged, as our error. Arrow's message names it."""
    try:
        yield
    except (duckdb.Error, OSError, pyarrow.ArrowInvalid) as error:
        if isinstance(error, duckdb.Error) and not is_file_error(error):
            raise
        raise IntegrityError(
            f"a file in {published_folder(run_folder)} cannot be read: {one_line(error)}. "
            f"{what_to_do(database_path(run_folder))}"
        ) from error


def _fetch(result: duckdb.DuckDBPyRelation | None, max_rows: int) -> "pandas.DataFrame":
    """The rows of a result, batch by batch, so that an endless one is noticed before it fills the memory."""
    if result is None:  # an empty statement, or one without rows
        return pyarrow.table({}).to_pandas()
    reader = result.to_arrow_reader(min(max_rows + 1, 10_000))
    batches = []
    n_rows = 0
    for batch in reader:
        batches.append(batch)
        n_rows += batch.num_rows
        if n_rows > max_rows:
            raise UserError(f"the query gives more than {max_rows} rows: add a LIMIT")
    frame: pandas.DataFrame = pyarrow.Table.from_batches(batches, schema=reader.schema).to_pandas()
    return frame


class StoreReader:
    """A run's store as records: one connection, opened at the first question and kept until `release`.

    Opening costs more than most questions. A reader sees the snapshot of its first question. `writer` is for the process
    that writes the store: the database that this writer keeps open is read, as it is at each question. `iterations`: only
    the rows of these (see `of_iterations`) are looked for, and `only` these tables, which is quick however large the run is; not
    for the writer's.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        writer: StoreWriter | None = None,
        iterations: Collection[int] | None = None,
        only: Collection[str] | None = None,
    ) -> None:
        if writer is not None and (iterations is not None or only is not None):
            raise TypeError("the writer's reader reads the database, which has all iterations and tables")
        wanted = None if iterations is None else of_iterations(frozenset(iterations))
        self._run_folder = run_folder
        self._writer = writer
        self._open_snapshot = functools.partial(open_reader, wanted=wanted, only=only, threads=1)  # small questions
        self._connection: duckdb.DuckDBPyConnection | None = None

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._writer is not None:
            return self._writer.connection()
        if self._connection is None:
            self._connection = self._open_snapshot(self._run_folder)
        return self._connection

    def commits(self) -> list[StageCommit]:
        """All stage commits, by number. Their chain is not followed here."""
        return read_commits(self._open())

    def load(self, record_class: type[R], **equal: str | int | float | bool | None) -> list[R]:
        """See `load`."""
        table = TABLES[record_class]
        unknown = set(equal) - set(table.column_names)
        if unknown:
            raise TypeError(f"{record_class.__name__} has no field {', '.join(sorted(unknown))}")
        where = " AND ".join(f"{name} IS NOT DISTINCT FROM ?" for name in equal) or "true"
        order = ", ".join(
            f"{table.name}.{key}" for key in table.key
        )  # the column: a bare name would be the text made of it
        sql = f"SELECT {select_list(table)} FROM {table.name} WHERE {where} ORDER BY {order}"
        with readable_files(self._run_folder):
            return to_records(table, self._open().execute(sql, list(equal.values())).fetchall())

    def stage(self, run_id: str, iteration: int, stage: str) -> StageCommit | None:
        """The commit of one stage, or None when it was not made.

        Raises:
            UserError, StoreLockedError, IntegrityError: see `open_reader` and `StoreWriter.connection`.
        """
        return find_commit(self._open(), run_id, iteration, stage)

    def redacted(self, run_id: str) -> frozenset[str]:
        """The ids of the run's queries whose text was redacted."""
        sql = "SELECT DISTINCT CAST(query_id AS VARCHAR) FROM redaction WHERE run_id = ?"
        with readable_files(self._run_folder):
            return frozenset(query_id for (query_id,) in self._open().execute(sql, [run_id]).fetchall())

    def release(self) -> None:
        """Close the connection; the next question opens another. (A writer's is released by the writer.)"""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def load(run_folder: Path, record_class: type[R], **equal: str | int | float | bool | None) -> list[R]:
    """The records of one class whose fields have the given values, ordered by the table's key.

    >>> load(folder, Rollout, run_id=run_id, iteration=3)  # doctest: +SKIP

    Raises:
        TypeError: for a field that the class does not have.
        UserError, IntegrityError: see `query`.
    """
    reader = StoreReader(run_folder)
    try:
        return reader.load(record_class, **equal)
    finally:
        reader.release()


def verified_commits(run_folder: Path) -> list[StageCommit]:
    """All stage commits of a snapshot, after following their chain from the first to the last.

    Raises:
        IntegrityError: a commit was changed, moved or taken out.
        UserError: see `open_reader`.
    """
    commits = snapshot_commits(run_folder)
    check_chain(commits)
    return commits
