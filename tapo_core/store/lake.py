"""A lake: the published files of many runs in one DuckLake, whose catalog is a Postgres database (or a DuckDB file).

A run commits to its own store first, and that is what counts. What is in its ledger is then added to the lake, commit by
commit: one lake transaction registers the commit's published files where they are, and inserts its row into
``stage_commit``. That row says what is there, so adding again adds nothing, and whatever a crash, or a lake that could not
be reached, left out is added the next time. The lake owns no files: it can be thrown away and made again.

DuckLake knows no keys, and by itself it would merge the inserts of two transactions that both found a commit missing. With
its own retries off, a transaction fails if any other was committed since it began (the catalog's key of snapshots sees to
that); it is then made again from its first question on.
"""

import contextlib
import functools
import importlib.util
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow.parquet

from tapo_core.catalog import POSTGRES, catalog_problem
from tapo_core.errors import IntegrityError, TransientError, UserError
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import Config, ledger_path
from tapo_core.store.ledger import read_ledger
from tapo_core.store.publish import TABLES_BY_NAME, published_file
from tapo_core.store.snapshot import COMMIT_COLUMNS, commit_rows, snapshot_commits
from tapo_core.text import one_line

_CONFIG: Config = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "threads": "1",
}

#: Where DuckLake would write files of its own: nowhere. Merging or rewriting the runs' files fails, whoever asks for it.
_NO_DATA_PATH = "/dev/null/lake"

#: Rows of ``stage_commit`` stay in the catalog, unless someone inserts as many at once.
_INLINED_ROWS = 1000

#: In the lake's ``stage_commit``, beside the store's own columns: the ledger's migration, where the run is, and how many files
#: of the commit are registered (a file without rows is not).
_COMMIT_TYPES = dict.fromkeys(COMMIT_COLUMNS.names, "VARCHAR") | {
    "seq": "BIGINT",
    "iteration": "INTEGER",
    "committed_at": "TIMESTAMP",
    "migration": "INTEGER",
    "run_folder": "VARCHAR",
    "n_files": "INTEGER",
}

#: Seconds before each further try of what another writer came before.
_WAITS = tuple(min(0.02 * 2**n, 1.0) for n in range(20))

T = TypeVar("T")


def check_lake(catalog: str) -> None:
    """Look at what a person can get wrong about a lake, without opening it.

    Raises:
        UserError: no catalog, a password in it, or packages are missing.
    """
    problem = catalog_problem(catalog)
    if problem:
        raise UserError(f"lake: {problem}")
    extension_files(catalog)


def extension_files(catalog: str) -> list[Path]:
    """The extensions that a catalog needs, as their packages brought them."""
    names = ["ducklake", *(["postgres_scanner"] if catalog.startswith(POSTGRES) else [])]
    files = []
    for name in names:
        spec = importlib.util.find_spec(f"duckdb_extension_{name}")
        folder = Path(spec.origin).parent if spec and spec.origin else Path()
        file = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if spec is None or not file.is_file():
            wanted = " ".join(f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}" for name in names)
            raise UserError(
                f'a lake needs packages that are not installed (extra "lake"): pip install --no-deps {wanted}'
            )
        files.append(file)
    return files


def _quoted(text: str | Path) -> str:
    return "'" + str(text).replace("'", "''") + "'"


@contextlib.contextmanager
def open_catalog(catalog: str, *, for_writing: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose schema is the lake's. Only for our own SQL: it can reach files and the network.

    Raises:
        UserError: see `check_lake`; or, to read, there is no lake.
        TransientError: the catalog cannot be reached, or DuckLake failed.
    """
    check_lake(catalog)
    place = catalog
    if catalog.startswith(POSTGRES) and "connect_timeout" not in catalog:
        place += " connect_timeout=10"  # a server that is gone without a word must not hold up a run for minutes
    lake = _quoted(f"ducklake:{place}")
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(duckdb.connect(config=_CONFIG)))
        stack.enter_context(_named_failures(catalog))
        for file in extension_files(catalog):
            connection.execute(f"LOAD {_quoted(file)}")
        connection.execute("SET ducklake_max_retry_count = 0")
        if for_writing:
            _again(lambda: connection.execute(f"ATTACH {lake} AS lake (DATA_PATH {_quoted(_NO_DATA_PATH)})"))
            connection.execute("DETACH lake")
            # An insert wants a folder, and leaves it empty: its row goes into the catalog.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tapo-lake-"))
            options = f"DATA_PATH {_quoted(folder)}, OVERRIDE_DATA_PATH true, DATA_INLINING_ROW_LIMIT {_INLINED_ROWS}"
        else:
            options = "READ_ONLY"
        _again(lambda: connection.execute(f"ATTACH {lake} AS lake ({options})"))
        connection.execute("USE lake")
        yield connection


@contextlib.contextmanager
def _named_failures(catalog: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if _is_no_lake(str(error)):
            raise UserError(f"{catalog} holds no lake: `tapo lake add` makes one") from error
        raise TransientError(f"lake {catalog}: {one_line(error)}") from error


#: How a read-only attach says that nobody has added a run yet.
_is_no_lake = re.compile(
    r"Existing DuckLake at metadata catalog|read-only mode: database does not exist|Table with name stage_commit does not"
).search

#: How DuckLake and its catalogs say that another writer came first, or is at it.
_is_conflict = re.compile(
    r"(?i)ducklake_max_retry_count|conflict|already exists|duplicate key|could not serialize|deadlock|set lock on file"
).search


def _again(work: Callable[[], T]) -> T:
    """Do something until no other writer comes in between.

    Raises:
        duckdb.Error: it failed for another reason, or too often.
    """
    for wait in _WAITS:
        try:
            return work()
        except duckdb.Error as error:
            if not _is_conflict(str(error)):
                raise
        time.sleep(wait)
    return work()


def _in_transaction(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """`_again`, as one transaction."""

    def transaction() -> T:
        connection.begin()
        try:
            result = work()
            connection.commit()
        except BaseException:
            with contextlib.suppress(duckdb.TransactionException):  # a commit that failed has ended it
                connection.rollback()
            raise
        return result

    return _again(transaction)


def add_run(catalog: str, run_folder: Path) -> int:
    """Add all commits of a run that the lake lacks, in their order; returns how many. The lake is made if there is none.

    Raises:
        UserError: no run there; or see `open_catalog`.
        TransientError: the lake cannot be reached, or others write to it all the time. What was added stays; add again.
        IntegrityError: the lake has another run under this run's id, or has this run at another place; a published file is
            missing.
    """
    check_lake(catalog)
    run_folder = run_folder.resolve()
    commits = snapshot_commits(run_folder)
    levels = {entry.seq: entry.migration or 1 for entry in read_ledger(ledger_path(run_folder))}
    with open_catalog(catalog, for_writing=True) as connection:
        _in_transaction(connection, lambda: _make_tables(connection))
        there = _commits_there(connection)
        added = 0
        for commit in commits:
            if not _is_there(commit, run_folder, there):
                add = functools.partial(_add_commit, connection, run_folder, commit, levels[commit.seq])
                added += _in_transaction(connection, add)
    return added


def _make_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables and columns that the lake lacks. Ids are text, as in the published files."""
    wanted = {
        table.name: {c.name: "VARCHAR" if c.sql_type == "UUID" else c.sql_type for c in table.columns}
        for table in TABLES_BY_NAME.values()
    } | {"stage_commit": _COMMIT_TYPES}
    found = connection.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns() WHERE database_name = 'lake' GROUP BY table_name"
    ).fetchall()
    there = dict(found)
    for name, columns in wanted.items():
        if name not in there:
            described = ", ".join(f"{column} {sql_type}" for column, sql_type in columns.items())
            connection.execute(f"CREATE TABLE {name} ({described})")
            continue
        for column in columns.keys() - set(there[name]):
            connection.execute(f"ALTER TABLE {name} ADD COLUMN {column} {columns[column]}")


#: What the lake knows of a commit, by run and number: chain digest, folder of the run.
_There = dict[tuple[str, int], tuple[str, str]]


def _commits_there(connection: duckdb.DuckDBPyConnection, where: str = "true", values: Sequence[Any] = ()) -> _There:
    sql = f"SELECT run_id, seq, chain_digest, run_folder FROM stage_commit WHERE {where}"
    return {(row[0], row[1]): (row[2], row[3]) for row in connection.execute(sql, list(values)).fetchall()}


def _is_there(commit: StageCommit, run_folder: Path, there: _There) -> bool:
    """Whether the lake has a commit already.

    Raises:
        IntegrityError: it has another under this run and number, or has this run at another place.
    """
    found = there.get((commit.run_id, commit.seq))
    if found is None:
        return False
    chain_digest, folder = found
    if folder != str(run_folder):
        raise IntegrityError(
            f"the lake has run {commit.run_id} in {folder}, not in {run_folder}: a run in a lake stays where it is. "
            "Move it back, or make a new lake."
        )
    if chain_digest != commit.chain_digest:
        raise IntegrityError(
            f"{run_folder}: commit {commit.seq} is not the one that the lake has of run {commit.run_id} (chain digest "
            f"{commit.chain_digest[:12]}, in the lake {chain_digest[:12]}). Make a new lake."
        )
    return True


def _add_commit(connection: duckdb.DuckDBPyConnection, run_folder: Path, commit: StageCommit, migration: int) -> bool:
    """Add one commit, unless it is there by now; says whether it was added. Part of a transaction."""
    there = _commits_there(connection, "run_id = ? AND seq = ?", [commit.run_id, commit.seq])
    if _is_there(commit, run_folder, there):
        return False
    n_files = 0
    for name in commit.row_counts:
        file = published_file(run_folder, commit, name)
        try:
            n_rows = pyarrow.parquet.read_metadata(file).num_rows
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise IntegrityError(f"{file} cannot be read: {one_line(error)}. See `tapo audit verify`.") from error
        if n_rows:  # all rows of the stage may have been there already; DuckLake forgets a file without any
            connection.execute(
                f"CALL ducklake_add_data_files('lake', '{name}', {_quoted(file)}, "
                # In the file is all there is: older files lack columns, and the folder's iteration= is a column already.
                "allow_missing => true, hive_partitioning => false)"
            )
            n_files += 1
    (row,) = commit_rows([commit]).to_pylist()
    row |= {"migration": migration, "run_folder": str(run_folder), "n_files": n_files}
    names = ", ".join(_COMMIT_TYPES)
    marks = ", ".join("?" for _ in _COMMIT_TYPES)
    connection.execute(f"INSERT INTO stage_commit ({names}) VALUES ({marks})", [row[name] for name in _COMMIT_TYPES])
    return True
