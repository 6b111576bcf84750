"""Records to rows and back: Arrow tables for writing, plain tuples for reading, and the digest of a row.

A row is checked on its way in, because the store is the last place where a bad value can still be named: a NaN, a lone
surrogate or a float in an integer column is refused with the table, the column and the row's key.
"""

import datetime
import functools
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any

import numpy
import pyarrow

from tapo_core.errors import IntegrityError
from tapo_core.ids import canonical_json, sha256_text
from tapo_core.store.tables import Column, Record, Table

#: UUIDs travel as text; SQL casts them.
_ARROW_TYPES = {
    "UUID": pyarrow.string(),
    "VARCHAR": pyarrow.string(),
    "INTEGER": pyarrow.int32(),
    "DOUBLE": pyarrow.float64(),
    "BOOLEAN": pyarrow.bool_(),
    "TIMESTAMP": pyarrow.timestamp("us"),
    "INTEGER[]": pyarrow.list_(pyarrow.int32()),
    "FLOAT[]": pyarrow.list_(pyarrow.float32()),
}
_INT32 = range(-(2**31), 2**31)
_FLOAT32_MAX = float(numpy.finfo(numpy.float32).max)
_is_uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def _utc(text: str) -> datetime.datetime:
    """An ISO 8601 time with its offset, as a naive UTC time (what a TIMESTAMP column holds)."""
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("no UTC offset")
    return time.astimezone(datetime.UTC).replace(tzinfo=None)


def _text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{type(value).__name__} is not text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"lone surrogate {value[error.start]!a} at character {error.start}: decode with U+FFFD instead"
    return None


def _uuid_problem(value: Any) -> str | None:
    if isinstance(value, str) and _is_uuid(value):
        return None
    return f"{value!a} is not a UUID in lower case with hyphens (see ids.deterministic_id)"


def _integer_problem(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{type(value).__name__} is not an integer"
    return None if value in _INT32 else f"{value} does not fit in 32 bits"


def _number_problem(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{type(value).__name__} is not a number"
    return None if math.isfinite(value) else f"{value} is not finite"


def _float32_problem(value: Any) -> str | None:
    problem = _number_problem(value)
    return problem or (f"{value} does not fit in float32" if abs(value) > _FLOAT32_MAX else None)


def _flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{type(value).__name__} is not a bool"


def _time_problem(value: Any) -> str | None:
    try:
        _utc(value)
    except (TypeError, ValueError) as error:
        return f"{value!a} is not an ISO 8601 time with its UTC offset: {error}"
    return None


_PROBLEMS: dict[str, Callable[[Any], str | None]] = {
    "UUID": _uuid_problem,
    "VARCHAR": _text_problem,
    "INTEGER": _integer_problem,
    "DOUBLE": _number_problem,
    "BOOLEAN": _flag_problem,
    "TIMESTAMP": _time_problem,
}


@functools.cache
def _members(enum: type[StrEnum]) -> frozenset[str]:
    return frozenset(enum)


def _problem(column: Column, value: Any) -> str | None:
    """What forbids a value in a column, or None."""
    if value is None:
        return None if column.nullable else "is missing"
    if column.enum is not None and value not in _members(column.enum):
        return f"{value!a} is not one of {', '.join(column.enum)}"
    if not column.sql_type.endswith("[]"):
        return _PROBLEMS[column.sql_type](value)
    if not isinstance(value, list):
        return f"{type(value).__name__} is not a list"
    element_problem = _integer_problem if column.sql_type == "INTEGER[]" else _float32_problem
    problems = ((i, element_problem(element)) for i, element in enumerate(value))
    return next((f"element {i}: {problem}" for i, problem in problems if problem), None)


def _refuse(table: Table, column: Column, records: Sequence[Record], values: Iterable[Any]) -> None:
    """Name the first row with a bad value in a column.

    Raises:
        IntegrityError: with table, key and column.
    """
    for record, value in zip(records, values, strict=True):
        problem = _problem(column, value)
        if problem:
            key = ", ".join(f"{name}={getattr(record, name)!a}" for name in table.key)
            raise IntegrityError(f"{table.name} ({key}): {column.name}: {problem}. Nothing was written.")


def _surely_fine(column: Column, values: list[Any]) -> bool:
    """A quick look at a whole column. False sends its rows to the slow look, which names the bad one if there is any."""
    there = [value for value in values if value is not None]
    if len(there) < len(values) and not column.nullable:
        return False
    if column.enum is not None:
        return set(there) <= _members(column.enum)
    if not column.sql_type.endswith("[]"):
        return _surely_fine_scalars(column.sql_type, there)
    if not set(map(type, there)) <= {list}:
        return False
    elements = list(itertools.chain.from_iterable(there))
    if column.sql_type == "INTEGER[]":
        return _surely_fine_scalars("INTEGER", elements)
    if not set(map(type, elements)) <= {float}:
        return False
    return bool((numpy.abs(numpy.array(elements, dtype=numpy.float64)) <= _FLOAT32_MAX).all())


def _surely_fine_scalars(sql_type: str, values: list[Any]) -> bool:
    if not values:
        return True
    types = set(map(type, values))
    match sql_type:
        case "UUID":
            return types == {str} and all(map(_is_uuid, values))
        case "VARCHAR":
            return types == {str} and _text_problem("".join(values)) is None
        case "INTEGER":
            return types == {int} and min(values) in _INT32 and max(values) in _INT32
        case "DOUBLE":
            return types == {float} and all(map(math.isfinite, values))
        case "BOOLEAN":
            return types == {bool}
    return False


def arrow_schema(table: Table) -> pyarrow.Schema:
    """A table's columns as Arrow has them."""
    return pyarrow.schema([(column.name, _ARROW_TYPES[column.sql_type]) for column in table.columns])


def to_arrow(table: Table, records: Sequence[Record]) -> pyarrow.Table:
    """The Arrow table of records of one class, with exactly the table's columns.

    Raises:
        IntegrityError: for a value that the column cannot hold; names table, key and column.
    """
    arrays = []
    for column in table.columns:
        values = [getattr(record, column.name) for record in records]
        if not _surely_fine(column, values):
            _refuse(table, column, records, values)
        if column.sql_type == "TIMESTAMP":
            values = [_utc(value) for value in values]
        arrays.append(pyarrow.array(values, type=_ARROW_TYPES[column.sql_type]))
    return pyarrow.Table.from_arrays(arrays, names=list(table.column_names))


def _list_digests(array: pyarrow.Array, dtype: str) -> list[str | None]:
    """The SHA-256 of each list's little-endian 32-bit values, straight from Arrow's buffers."""
    values = array.values.to_numpy().astype(dtype, copy=False)
    bounds = zip(array.is_valid().to_pylist(), itertools.pairwise(array.offsets.to_pylist()), strict=True)
    return [hashlib.sha256(values[low:high].tobytes()).hexdigest() if valid else None for valid, (low, high) in bounds]


def _plain_column(column: Column, array: pyarrow.Array) -> list[Any]:
    """A column's values as `canonical_json` takes them; a list stands as the digest of its values."""
    if column.sql_type.endswith("[]"):
        return _list_digests(array, "<i4" if column.sql_type == "INTEGER[]" else "<f4")
    values: list[Any] = array.to_pylist()
    if column.sql_type == "TIMESTAMP":
        return [value.isoformat() for value in values]
    return values


def keys_and_digests(table: Table, rows: pyarrow.Table) -> list[tuple[tuple[Any, ...], str]]:
    """Key and digest of each row. Equal rows have equal digests, made from records or read from the database.

    What was measured (a time) is left out: two runs that are the same in all else have the same digests.
    """
    plain = {
        column.name: _plain_column(column, rows.column(column.name).combine_chunks())
        for column in table.columns
        if not column.measured
    }
    keys = zip(*(plain[name] for name in table.key), strict=True)
    digests = (sha256_text(canonical_json(row)) for row in zip(*plain.values(), strict=True))
    return list(zip(keys, digests, strict=True))


def select_list(table: Table) -> str:
    """The table's columns for a SELECT, UUIDs as text."""
    return ", ".join(
        f"CAST({column.name} AS VARCHAR) AS {column.name}" if column.sql_type == "UUID" else column.name
        for column in table.columns
    )


def _from_column(column: Column, values: Iterable[Any]) -> Iterable[Any]:
    if column.enum is not None:
        enum = column.enum
        return (None if value is None else enum(value) for value in values)
    if column.sql_type == "TIMESTAMP":
        return (value.replace(tzinfo=datetime.UTC).isoformat() for value in values)
    return values


def to_records(table: Table, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The records of rows read with `select_list`: enums restored, times in ISO 8601 with +00:00."""
    if not rows:
        return []
    columns = [
        _from_column(column, values) for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]
    return [table.record_class(*values) for values in zip(*columns, strict=True)]
