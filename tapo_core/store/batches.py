"""What a stage hands in, table by table: each key once, and never against what the store has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow
import pyarrow.compute

from tapo_core.errors import IntegrityError
from tapo_core.ids import digest, iteration_of
from tapo_core.store.rows import keys_and_digests, select_list, to_arrow
from tapo_core.store.tables import TABLES, Record, Table


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one table that a stage hands in, each key once, ordered by key."""

    table: Table
    rows: pyarrow.Table
    digests: dict[tuple[Any, ...], str]

    @property
    def incoming(self) -> str:
        """The temporary table in which SQL sees the rows."""
        return f"incoming_{self.table.name}"

    def same_iterations(self, rows: str) -> str | None:
        """SQL that holds for those of some rows which are of these rows' iterations; None if the table has no iterations."""
        if "iteration" not in self.table.column_names:
            return None
        found = pyarrow.compute.min_max(self.rows["iteration"]).as_py()
        return f"{rows}.iteration BETWEEN {found['min']} AND {found['max']}"


def _batch(table: Table, records: Sequence[Record]) -> Batch:
    rows = to_arrow(table, records)
    digests: dict[tuple[Any, ...], str] = {}
    kept = []
    for index, (key, row_digest) in enumerate(keys_and_digests(table, rows)):
        if key not in digests:
            digests[key] = row_digest
            kept.append(index)
        elif digests[key] != row_digest:
            first = next(i for i in kept if tuple(getattr(records[i], name) for name in table.key) == key)
            raise _contradiction(table, key, rows.slice(first, 1), rows.slice(index, 1), "twice in this stage")
    keys = list(digests)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Batch(table, rows.take([kept[i] for i in order]), {keys[i]: digests[keys[i]] for i in order})


def _check_iterations(batch: Batch) -> None:
    """An id belongs to one iteration, so that whether it is in the store is known without reading the other iterations."""
    column = batch.table.key[0]
    ids, iterations = batch.rows[column].to_pylist(), batch.rows["iteration"].to_pylist()
    for whole_id, iteration in zip(ids, iterations, strict=True):
        if iteration_of(whole_id) != iteration:
            raise IntegrityError(
                f"{batch.table.name}: {column} {whole_id} names iteration {iteration_of(whole_id)} (its last six digits) and its "
                f"row says iteration {iteration}; make it with `deterministic_id(…, iteration=…)`. Nothing was written."
            )


def _contradiction(
    table: Table, key: tuple[Any, ...], one: pyarrow.Table, other: pyarrow.Table, where: str
) -> IntegrityError:
    (left,), (right,) = one.to_pylist(), other.to_pylist()
    named = ", ".join(f"{name}={value}" for name, value in zip(table.key, key, strict=True))
    columns = ", ".join(name for name in table.column_names if left[name] != right[name])
    return IntegrityError(
        f"{table.name} ({named}) is {where} with different content in: {columns}. Nothing was written."
    )


def make_batches(records: Sequence[Record]) -> list[Batch]:
    """The records by table, in the order of `TABLES`."""
    by_class: dict[type[Any], list[Record]] = {}
    for record in records:
        by_class.setdefault(type(record), []).append(record)
    strangers = [record_class.__name__ for record_class in by_class if record_class not in TABLES]
    if strangers:
        raise TypeError(f"no table holds records of {', '.join(strangers)}")
    return [_batch(table, by_class[record_class]) for record_class, table in TABLES.items() if record_class in by_class]


def content_digest(records: Sequence[Record]) -> str:
    """The digest of records as the store keeps it in a stage's commit: whatever their order, repeats counted once.

    Raises:
        IntegrityError: for values that the store cannot hold, or two records with one key and different content.
    """
    return batches_digest(make_batches(records))


def batches_digest(batches: Sequence[Batch]) -> str:
    """The digest of all rows of a stage."""
    return rows_digest({batch.table.name: batch.digests for batch in batches})


def rows_digest(digests: Mapping[str, Mapping[tuple[Any, ...], str]]) -> str:
    """The content digest of a stage, from the digests of its rows by table and key."""
    return digest({table: [row for _, row in sorted(rows.items())] for table, rows in digests.items()})


def insert_batch(connection: duckdb.DuckDBPyConnection, batch: Batch) -> set[tuple[Any, ...]]:
    """Insert the rows that are not there yet; those that are must be the same. Returns the keys that were there.

    Raises:
        IntegrityError: for a key that is there with different content, or an id that names another iteration than its row.
    """
    table = batch.table
    if table.key_names_iteration:
        _check_iterations(batch)
    connection.register("handed_in", batch.rows)
    casts = ", ".join(f"CAST({column.name} AS {column.sql_type}) AS {column.name}" for column in table.columns)
    connection.execute(f"CREATE TEMP TABLE {batch.incoming} AS SELECT {casts} FROM handed_in")
    connection.unregister("handed_in")
    same_key = " AND ".join(f"incoming.{name} = stored.{name}" for name in table.key)
    near = batch.same_iterations("stored")
    if near is not None:
        # No row of another iteration has the key (`_check_iterations`), and DuckDB then reads no other iteration's chunks.
        same_key += f" AND {near}"
    key_columns = ", ".join(f"CAST({name} AS VARCHAR)" if name.endswith("_id") else name for name in table.key)
    inserted = connection.execute(
        f"INSERT INTO {table.name} SELECT * FROM {batch.incoming} AS incoming "
        f"WHERE NOT EXISTS (SELECT 1 FROM {table.name} AS stored WHERE {same_key}) RETURNING {key_columns}"
    ).fetchall()
    if len(inserted) == len(batch.digests):
        return set()
    stored = connection.sql(
        f"SELECT {select_list(table)} FROM {table.name} AS stored "
        f"WHERE EXISTS (SELECT 1 FROM {batch.incoming} AS incoming WHERE {same_key})"
    ).to_arrow_table()
    for index, (key, stored_digest) in enumerate(keys_and_digests(table, stored)):
        if batch.digests[key] != stored_digest:
            new = batch.rows.slice(list(batch.digests).index(key), 1)
            raise _contradiction(table, key, stored.slice(index, 1), new, "in the store already,")
    return batch.digests.keys() - set(inserted)
