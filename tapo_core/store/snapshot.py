"""A run as it was at one moment: its published files in an in-memory DuckDB, under the names of tables and views.

The database is not opened, so a reader neither waits for a writer nor holds one up. DuckDB opens no file at all here: Arrow
reads exactly the files of the commits that were in the ledger when the snapshot was taken, and hands the rows on.
"""

import contextlib
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.dataset
import pyarrow.fs

from tapo_core.errors import IntegrityError, UserError
from tapo_core.ids import canonical_json
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import Config, database_path, ledger_path, published_folder
from tapo_core.store.ledger import read_ledger
from tapo_core.store.migrate import shipped_migrations, view_statements
from tapo_core.store.publish import TABLES_BY_NAME, published_files
from tapo_core.store.rows import arrow_schema
from tapo_core.store.tables import Table

#: A reader must not read other files, load extensions, see Python's variables, spill to disk, or undo any of this.
READER_CONFIG: Config = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}

COMMIT_COLUMNS = pyarrow.schema(
    [
        ("seq", pyarrow.int64()),
        ("run_id", pyarrow.string()),
        ("iteration", pyarrow.int32()),
        ("stage", pyarrow.string()),
        ("config_digest", pyarrow.string()),
        ("input_digest", pyarrow.string()),
        ("manifest", pyarrow.string()),
        ("row_counts", pyarrow.string()),
        ("content_digest", pyarrow.string()),
        ("previous_digest", pyarrow.string()),
        ("chain_digest", pyarrow.string()),
        ("committed_at", pyarrow.timestamp("us")),
    ]
)


def snapshot_commits(run_folder: Path) -> list[StageCommit]:
    """The commits of a snapshot that is taken now: those in the ledger.

    Raises:
        UserError: no store there, or one that an older version of TAPO wrote.
        IntegrityError: the ledger is damaged, or the store is newer than this version of TAPO.
    """
    path = database_path(run_folder)
    entries = read_ledger(ledger_path(run_folder))
    if not entries and not path.exists():
        raise UserError(f"no run in {run_folder}: there is no {path}. Give the folder of a run.")
    commits = [commit for entry in entries if (commit := entry.commit) is not None]
    # (Without entries it is a run that is just being made: its database may be there before its folder.)
    if len(commits) < len(entries) or (entries and not published_folder(run_folder).is_dir()):
        raise UserError(f"{path} is of an older version of TAPO. Resume the run, or call StoreWriter.migrate() on it.")
    newest = shipped_migrations()[-1].version
    if any((entry.migration or 0) > newest for entry in entries):
        raise IntegrityError(
            f"{path} was written by a newer version of TAPO, with other tables. Update TAPO to read it."
        )
    return commits


#: Whether a snapshot is to have the rows that a commit brought into a table.
Wanted = Callable[[StageCommit, str], bool]


#: Tables whose rows belong to the whole run, and are needed with any iteration.
_WHOLE = ("run", "config", "config_change", "turn", "query", "origin", "redaction")


def of_iterations(iterations: Collection[int]) -> Wanted:
    """The rows of some iterations, those of the whole run, and the policy versions that they may have sampled from."""

    def wanted(commit: StageCommit, table: str) -> bool:
        if table in _WHOLE or commit.iteration in iterations:
            return True
        return table == "policy_version" and (commit.iteration == 0 or commit.iteration + 1 in iterations)

    return wanted


def open_reader(
    run_folder: Path,
    *,
    memory_limit: str = "2GB",
    threads: int = 2,
    locked: bool = True,
    wanted: Wanted | None = None,
    only: Collection[str] | None = None,
    in_memory: bool = False,
    commits: Sequence[StageCommit] | None = None,
) -> duckdb.DuckDBPyConnection:
    """A connection to a snapshot of a run: all that was committed when it was opened, and nothing later. Never waits.

    Its SQL sees the store's tables and views. It can neither change the store nor reach files, extensions, the network or
    Python's variables, nor (when `locked`) change settings. For a notebook: ``open_reader(folder).sql("...").df()``.
    `wanted`: leave out the rows of other commits and tables, for who knows where to look in a large run. `only`: make
    no other tables and views than these, for who knows what will be asked. `in_memory`: read all of it now, for who asks
    much of little. `commits`: those of `snapshot_commits`, for who has asked for them already.

    Raises:
        UserError, IntegrityError: see `snapshot_commits`.
    """
    if commits is None:
        commits = snapshot_commits(run_folder)
    if wanted is not None:
        commits = [commit for commit in commits if any(wanted(commit, table) for table in commit.row_counts)]
    connection = duckdb.connect(config={**READER_CONFIG, "memory_limit": memory_limit, "threads": str(threads)})
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        register_tables(connection, run_folder, commits, wanted=wanted, only=only)
        create_views(connection, only=only, in_memory=in_memory)
        if locked:
            connection.execute("SET lock_configuration = true")
        on_failure.pop_all()
    return connection


def _tables(only: Collection[str] | None) -> list[Table]:
    """All tables, or those named."""
    return [table for table in TABLES_BY_NAME.values() if only is None or table.name in only]


def create_views(
    connection: duckdb.DuckDBPyConnection,
    prefix: str = "published_",
    only: Collection[str] | None = None,
    in_memory: bool = False,
) -> None:
    """Make tables and views (all, or those named) of what `register_tables` registered, in the connection's schema.

    `in_memory`: the rows are copied into DuckDB's own tables now, and not read from the files by each question.
    """
    for table in _tables(only):
        columns = ", ".join(f"CAST({c.name} AS {c.sql_type}) AS {c.name}" for c in table.columns)
        kind = "TABLE" if in_memory else "VIEW"
        connection.execute(f"CREATE {kind} {table.name} AS SELECT {columns} FROM {prefix}{table.name}")
    connection.execute(
        f"CREATE VIEW stage_commit AS SELECT * REPLACE (CAST(run_id AS UUID) AS run_id) FROM {prefix}stage_commit"
    )
    for name, statement in view_statements():
        if only is None or name in only:
            connection.execute(statement)


def register_tables(
    connection: duckdb.DuckDBPyConnection,
    run_folder: Path,
    commits: Sequence[StageCommit],
    prefix: str = "published_",
    wanted: Wanted | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Let a connection see ``<prefix><table>`` for each table, ids as text, rows in the order of the commits.

    Files from before a migration that added columns read as NULL there.
    """
    for table in _tables(only):
        chosen = commits if wanted is None else [commit for commit in commits if wanted(commit, table.name)]
        files = pyarrow.dataset.FileSystemDataset.from_paths(
            published_files(run_folder, chosen, table.name),
            schema=arrow_schema(table),
            format=pyarrow.dataset.ParquetFileFormat(),
            filesystem=pyarrow.fs.LocalFileSystem(),
        )
        connection.register(f"{prefix}{table.name}", files)
    connection.register(f"{prefix}stage_commit", commit_rows(commits))


def commit_rows(commits: Sequence[StageCommit]) -> pyarrow.Table:
    """Commits as rows of ``stage_commit``, ids as text."""
    rows = [
        {name: getattr(commit, name) for name in COMMIT_COLUMNS.names}
        | {
            "manifest": canonical_json(commit.manifest),
            "row_counts": canonical_json(commit.row_counts),
            "committed_at": datetime.fromisoformat(commit.committed_at).replace(tzinfo=None),
        }
        for commit in commits
    ]
    return pyarrow.Table.from_pylist(rows, schema=COMMIT_COLUMNS)
