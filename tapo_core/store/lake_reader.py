"""SQL over a lake: the names of a run's store, over all runs.

DuckLake says which commits and files are there, in one snapshot; the files are then read as a run's own are (`snapshot`), on
a connection that has neither the lake nor its extensions. For DuckLake's own read-only attach cannot be locked down: its
Postgres functions reach any server, its clean-up functions delete files, and without access to files it reads nothing.

Every view is made for each run by itself, and the runs' answers are put one after the other. What a view joins or numbers
so stays within a run, though the same query has the same id in all runs that train on it.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow

from tapo_core.errors import IntegrityError
from tapo_core.store.commits import StageCommit, read_commits
from tapo_core.store.lake import open_catalog
from tapo_core.store.migrate import shipped_migrations
from tapo_core.store.publish import TABLES_BY_NAME, published_files
from tapo_core.store.reader import ask, is_file_error
from tapo_core.store.snapshot import READER_CONFIG, create_views, register_tables
from tapo_core.text import one_line

if TYPE_CHECKING:  # as in `reader`
    import pandas


@dataclass(frozen=True, slots=True)
class LakeRun:
    """What a lake has of one run."""

    run_id: str
    folder: Path
    commits: list[StageCommit]


def lake_runs(catalog: str) -> list[LakeRun]:
    """The runs of a lake and their commits, as they are now, by run id.

    Raises:
        UserError, TransientError: see `lake.open_catalog`.
        IntegrityError: the files in the lake are not those of its commits, or it was written by a newer version of TAPO.
    """
    with open_catalog(catalog, for_writing=False) as connection:
        connection.begin()  # one snapshot for all that follows
        told = connection.execute(
            "SELECT run_id, any_value(run_folder), max(migration), sum(n_files) FROM stage_commit GROUP BY run_id"
        ).fetchall()
        commits = read_commits(connection)
        listed = [
            file
            for name in TABLES_BY_NAME
            for (file,) in connection.execute(f"SELECT data_file FROM ducklake_list_files('lake', '{name}')").fetchall()
        ]
    if any(migration > shipped_migrations()[-1].version for _, _, migration, _ in told):
        raise IntegrityError(f"lake {catalog}: a newer version of TAPO wrote to it. Update TAPO to read it.")
    runs = [
        LakeRun(run_id, Path(folder), [commit for commit in commits if commit.run_id == run_id])
        for run_id, folder, _, _ in sorted(told)
    ]
    expected = {
        str(f) for run in runs for name in TABLES_BY_NAME for f in published_files(run.folder, run.commits, name)
    }
    if set(listed) - expected or len(listed) != sum(n_files for *_, n_files in told):
        raise IntegrityError(
            f"lake {catalog}: its files are not those of its commits: something else than TAPO wrote to it. Make a new lake."
        )
    return runs


def open_lake(catalog: str, *, memory_limit: str = "2GB", threads: int = 2) -> duckdb.DuckDBPyConnection:
    """A connection to a snapshot of a lake, as `snapshot.open_reader` gives one to a run: same names, same types, same limits.

    Raises:
        UserError, TransientError, IntegrityError: see `lake_runs`.
    """
    runs = lake_runs(catalog) or [LakeRun("", Path(), [])]
    connection = duckdb.connect(config={**READER_CONFIG, "memory_limit": memory_limit, "threads": str(threads)})
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(connection.close)
        for number, run in enumerate(runs):
            connection.execute(f"CREATE SCHEMA run_{number}")
            connection.execute(f"USE run_{number}")
            register_tables(connection, run.folder, run.commits, f"published_{number}_")
            create_views(connection, f"published_{number}_")
        connection.execute("USE memory.main")
        _join_runs(connection, runs)
        connection.execute("SET lock_configuration = true")
        on_failure.pop_all()
    return connection


def _join_runs(connection: duckdb.DuckDBPyConnection, runs: Sequence[LakeRun]) -> None:
    """Make each table and view of all runs out of those of each run.

    A run's rows all have its id (`StoreWriter` sees to that); said as a constant, it spares a question about one run the files
    of the others.
    """
    found = connection.execute(
        "SELECT view_name, view_name IN (SELECT table_name FROM duckdb_columns() WHERE column_name = 'run_id') "
        "FROM duckdb_views() WHERE schema_name = 'run_0'"
    ).fetchall()
    for name, has_run in found:
        parts = [
            f"SELECT * {f'''REPLACE (CAST('{run.run_id}' AS UUID) AS run_id)''' if has_run and run.run_id else ''} "
            f"FROM run_{number}.{name}"
            for number, run in enumerate(runs)
        ]
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(parts)}")


def query_lake(catalog: str, sql: str, *, limit_seconds: float = 30.0, max_rows: int = 100_000) -> "pandas.DataFrame":
    """The result of a person's SQL over all runs of a lake; see `reader.query`.

    Raises:
        UserError: see `reader.query` and `open_lake`.
        TransientError, IntegrityError: see `open_lake`; or a published file is missing or damaged.
    """
    with contextlib.closing(open_lake(catalog)) as connection:
        try:
            return ask(connection, sql, limit_seconds=limit_seconds, max_rows=max_rows)
        except (duckdb.Error, OSError, pyarrow.ArrowInvalid) as error:
            if isinstance(error, duckdb.Error) and not is_file_error(error):
                raise
            raise IntegrityError(
                f"lake {catalog}: a run's file cannot be read: {one_line(error)}. Is the run's folder where it was? "
                "`tapo audit verify --run` names the damage."
            ) from error
