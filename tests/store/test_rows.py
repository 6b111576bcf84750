"""Records come back from the store as they went in, and what cannot be stored is refused by name."""

import contextlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import QUERY_ID, ROLLOUTS, RUN_ID, changed, make_query, make_rollout, make_tokens, start_records

from tapo_core.errors import IntegrityError
from tapo_core.ids import iteration_of
from tapo_core.records import RolloutTokens, Run, TokenRole, VerificationOutcome
from tapo_core.store import content_digest
from tapo_core.store.batches import insert_batch, make_batches
from tapo_core.store.migrate import apply_migrations, shipped_migrations
from tapo_core.store.rows import keys_and_digests, select_list, to_arrow, to_records
from tapo_core.store.tables import TABLES, Column, Table

_TEXTS = st.text(max_size=30) | st.sampled_from(
    ["", "\u2028", "e\u0301", "\U0001f600", "\ufffd", "a\x00b", "\\n'\";--"]
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "UUID": st.uuids().map(str),
    "VARCHAR": _TEXTS,
    "INTEGER": st.integers(-(2**31), 2**31 - 1),
    "DOUBLE": st.floats(allow_nan=False, allow_infinity=False),
    "BOOLEAN": st.booleans(),
    "TIMESTAMP": st.datetimes().map(lambda time: time.isoformat() + "+00:00"),
    "INTEGER[]": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
    "FLOAT[]": st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=5),
}


def _values(column: Column) -> st.SearchStrategy[Any]:
    values = st.sampled_from(list(column.enum)) if column.enum else _VALUES[column.sql_type]
    return st.none() | values if column.nullable else values


def _records(table: Table) -> st.SearchStrategy[Any]:
    columns = {column.name: _values(column) for column in table.columns}
    if "outcome" in columns:  # the one rule between columns: unknown has no reward, everything else has one
        columns["outcome"] = st.sampled_from([o for o in VerificationOutcome if o is not VerificationOutcome.UNKNOWN])
        columns["reward"] = st.sampled_from([0.0, 1.0])
    records = st.builds(table.record_class, **columns)
    return records.map(lambda record: _of_iteration(table, record)) if table.key_names_iteration else records


def _of_iteration(table: Table, record: Any) -> Any:
    """The record, of the iteration that its id names."""
    return changed(record, iteration=iteration_of(getattr(record, table.key[0])))


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.closing(duckdb.connect()) as memory:
        apply_migrations(memory, shipped_migrations())
        yield memory


def _through_the_database(connection: duckdb.DuckDBPyConnection, table: Table, records: list[Any]) -> list[Any]:
    """Insert, read as records, check the digests, and take everything back."""
    connection.begin()
    try:
        for batch in make_batches(records):
            insert_batch(connection, batch)
        sql = f"SELECT {select_list(table)} FROM {table.name}"
        stored = connection.sql(sql).to_arrow_table()
        assert sorted(keys_and_digests(table, stored)) == sorted(keys_and_digests(table, to_arrow(table, records)))
        return to_records(table, connection.execute(sql).fetchall())
    finally:
        connection.rollback()


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)
def test_records_come_back_equal(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    def key(record: Any) -> tuple[Any, ...]:
        return tuple(getattr(record, name) for name in table.key)

    @settings(max_examples=8, deadline=None, database=None)
    @given(st.lists(_records(table), min_size=1, max_size=4, unique_by=key))
    def check(records: list[Any]) -> None:
        found = _through_the_database(connection, table, records)
        assert sorted(map(repr, found)) == sorted(map(repr, records))

    check()


def test_logprobs_are_rounded_to_float32(connection: duckdb.DuckDBPyConnection) -> None:
    tokens = changed(make_tokens(ROLLOUTS[0]), logprobs_T=[-0.1, -1e-3])
    (found,) = _through_the_database(connection, TABLES[RolloutTokens], [tokens])
    assert found.logprobs_T == [struct.unpack("f", struct.pack("f", value))[0] for value in (-0.1, -1e-3)]


@pytest.mark.parametrize(("written", "read"), [("Z", "+00:00"), ("+00:00", "+00:00"), ("-00:30", None)])
def test_times_come_back_in_utc(connection: duckdb.DuckDBPyConnection, written: str, read: str | None) -> None:
    run = changed(start_records()[0], created_at=f"2026-01-02T03:04:05.25{written}")
    (found,) = _through_the_database(connection, TABLES[Run], [run])
    assert found.created_at == f"2026-01-02T{'03:04' if read else '03:34'}:05.250000+00:00"


def test_digest_does_not_depend_on_order_or_repeats() -> None:
    one, other, tokens = make_query(), make_rollout(0, "a"), make_tokens(QUERY_ID)
    assert content_digest([one, other, tokens]) == content_digest([tokens, other, one, other])
    assert content_digest([one]) != content_digest([make_query(text="Start with 8.")])
    assert content_digest([tokens]) != content_digest([changed(tokens, token_ids_T=[5, 4])])
    assert content_digest([tokens]) != content_digest([changed(tokens, logprobs_T=None)])
    empty = changed(tokens, logprobs_T=[])
    assert content_digest([empty]) != content_digest([changed(tokens, logprobs_T=None)])


_TOKENS = make_tokens(QUERY_ID, TokenRole.ROLLOUT)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            make_query(text="half a pair: \ud800"),
            rf"query \(query_id='{QUERY_ID}'\): text: lone surrogate '\\ud800' at",
        ),
        (changed(_TOKENS, logprobs_T=[-0.5, math.nan]), "logprobs_T: element 1: nan is not finite"),
        (changed(_TOKENS, logprobs_T=[-math.inf]), "logprobs_T: element 0: -inf is not finite"),
        (changed(_TOKENS, logprobs_T=[1e300]), "does not fit in float32"),
        (changed(_TOKENS, logprobs_T=[None]), "NoneType is not a number"),
        (changed(_TOKENS, token_ids_T=[1.5]), "token_ids_T: element 0: float is not an integer"),
        (changed(_TOKENS, token_ids_T=[2**31]), "does not fit in 32 bits"),
        (changed(_TOKENS, token_ids_T=None), "token_ids_T: is missing"),
        (changed(_TOKENS, token_ids_T=(1,)), "tuple is not a list"),
        (
            changed(_TOKENS, role="sampled"),
            "role: 'sampled' is not one of rollout, correction, constructed",
        ),
        (changed(make_query(), run_id="run-1"), "run_id: 'run-1' is not a UUID"),
        (changed(make_query(), query_id=QUERY_ID.upper()), "is not a UUID in lower case"),
        (changed(make_query(), level=True), "level: bool is not an integer"),
        (changed(make_query(), gold=19), "gold: int is not text"),
        (changed(make_rollout(0, "a"), top_p=math.nan), "top_p: nan is not finite"),
        (Run(RUN_ID, "r", 1, "tapo", "c", "0", "{}", "2026-01-02T03:04:05"), "created_at: .* no UTC offset"),
    ],
)
def test_values_that_cannot_be_stored_are_named(record: Any, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        make_batches([record])


def test_strangers_are_refused() -> None:
    with pytest.raises(TypeError, match="no table holds records of str"):
        make_batches(["not a record"])  # type: ignore[list-item]
