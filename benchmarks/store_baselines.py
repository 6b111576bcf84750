"""What the store is measured against: the same rows in SQLite, in plain Parquet files, and in JSON lines read by pandas.

None of them checks, digests, chains or fsyncs anything, nor survives a crash in the middle of a stage (SQLite does).
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pyarrow.parquet
from store_questions import Question

from tapo_core.store import Record
from tapo_core.store.migrate import view_statements
from tapo_core.store.rows import to_arrow
from tapo_core.store.tables import TABLES, Table

Rows = dict[Table, list[Any]]
Answer = list[tuple[Any, ...]]


def by_table(records: Sequence[Record]) -> Rows:
    """Records of a stage by their tables."""
    rows: Rows = {}
    for record in records:
        rows.setdefault(TABLES[type(record)], []).append(record)
    return rows


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class Sqlite:
    """One database, a transaction a stage, the same keys, an index on each column that questions join by; lists as JSON text."""

    name = "SQLite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._connection = sqlite3.connect(folder / "run.sqlite")
        self._connection.execute("PRAGMA journal_mode = WAL")
        for table in TABLES.values():
            columns = ", ".join(table.column_names)
            self._connection.execute(f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY ({', '.join(table.key)}))")
        for table_name, column in (
            ("rollout", "query_id"),
            ("verification", "subject_id"),
            ("error_location", "rollout_id"),
            ("selection_decision", "subject_id"),
        ):
            self._connection.execute(f"CREATE INDEX {table_name}_{column} ON {table_name} ({column})")

    def write(self, rows: Rows) -> None:
        """One transaction."""
        for table, records in rows.items():
            places = ", ".join("?" * len(table.columns))
            self._connection.executemany(
                f"INSERT INTO {table.name} VALUES ({places})",
                [[_scalar(getattr(record, name)) for name in table.column_names] for record in records],
            )
        self._connection.commit()

    def finish(self) -> None:
        """Let the planner know the tables."""
        self._connection.execute("ANALYZE")

    def ask(self, question: Question, ids: Mapping[str, str]) -> Answer:
        """Its own SQL."""
        return self._connection.execute(question.sqlite.format(**ids)).fetchall()


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


class PlainParquet:
    """A file for each table, iteration and stage, zstd; asked by DuckDB through a glob and the store's own views."""

    name = "Parquet"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n_files = 0
        self._connection = duckdb.connect()

    def write(self, rows: Rows) -> None:
        """One file a table."""
        for table, records in rows.items():
            self._n_files += 1
            file = self.folder / table.name / f"{self._n_files:06d}.parquet"
            file.parent.mkdir(exist_ok=True)
            pyarrow.parquet.write_table(to_arrow(table, records), file, compression="zstd")

    def finish(self) -> None:
        """Make the views."""
        for table in TABLES.values():
            columns = ", ".join(
                f"CAST({column.name} AS {column.sql_type}) AS {column.name}" for column in table.columns
            )
            there = (self.folder / table.name).exists()
            source = f"read_parquet('{self.folder / table.name}/*.parquet')" if there else "(SELECT NULL)"
            nothing = ", ".join(f"CAST(NULL AS {column.sql_type}) AS {column.name}" for column in table.columns)
            self._connection.execute(
                f"CREATE VIEW {table.name} AS SELECT {columns if there else nothing} FROM {source}"
                f"{'' if there else ' WHERE false'}"
            )
        self._connection.execute(
            "CREATE TABLE stage_commit (seq BIGINT, run_id UUID, iteration INTEGER, stage VARCHAR, manifest VARCHAR, "
            "row_counts VARCHAR, committed_at TIMESTAMP)"
        )
        for _, statement in view_statements():
            self._connection.execute(statement)

    def ask(self, question: Question, ids: Mapping[str, str]) -> Answer:
        """The store's SQL."""
        return self._connection.execute(question.sql.format(**ids)).fetchall()


class JsonLines:
    """A file for each table; `finish` reads what the questions need into memory with pandas, once."""

    name = "JSONL+pandas"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._frames: dict[str, pandas.DataFrame] = {}

    def write(self, rows: Rows) -> None:
        """Append to one file a table."""
        for table, records in rows.items():
            with (self.folder / f"{table.name}.jsonl").open("a", encoding="utf-8") as file:
                names = table.column_names
                file.writelines(
                    json.dumps({name: getattr(record, name) for name in names}) + "\n" for record in records
                )

    def finish(self) -> None:
        """Load every table; of the tokens only what was constructed, or the memory would not do."""
        for file in self.folder.glob("*.jsonl"):
            chunks = pandas.read_json(file, lines=True, chunksize=50_000, dtype=False, precise_float=True)
            tokens = file.stem == "rollout_tokens"
            kept = [chunk[chunk["role"] == "constructed"] if tokens else chunk for chunk in chunks]
            self._frames[file.stem] = pandas.concat(kept, ignore_index=True)

    def ask(self, question: Question, ids: Mapping[str, str]) -> Answer:
        """Its pandas function, on the frames in memory."""
        return list(question.pandas(self._frames, ids).itertuples(index=False, name=None))
