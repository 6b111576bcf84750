"""Which table holds which record class, column by column, read off the dataclasses themselves.

The SQL types follow from the fields: a name that ends in ``_id`` is a UUID, ``created_at`` a UTC TIMESTAMP, ``str``
VARCHAR, ``int`` INTEGER, ``float`` DOUBLE, ``list[int]`` INTEGER[] and ``list[float]`` FLOAT[] (tokens come by the
million, and float32 is what engines compute in). A test holds these against the migrations.
"""

import dataclasses
import re
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from tapo_core import records

_SQL_TYPES: dict[Any, str] = {
    str: "VARCHAR",
    int: "INTEGER",
    float: "DOUBLE",
    bool: "BOOLEAN",
    list[int]: "INTEGER[]",
    list[float]: "FLOAT[]",
}

_MEASURED = frozenset({"milliseconds"})

Record = (
    records.Run
    | records.Config
    | records.ConfigChange
    | records.PolicyVersion
    | records.Query
    | records.QueryOverlap
    | records.Rollout
    | records.RolloutTokens
    | records.Verification
    | records.ErrorLocation
    | records.Correction
    | records.SelectionDecision
    | records.Advantage
    | records.TokenWeight
    | records.UpdateMetric
    | records.Evaluation
    | records.ColdStartExample
    | records.Redaction
    | records.Origin
    | records.Turn
)

#: The columns that tell two rows of a table apart.
KEYS: dict[type[Any], tuple[str, ...]] = {
    records.Run: ("run_id",),
    records.Config: ("config_digest",),
    records.ConfigChange: ("change_id",),
    records.PolicyVersion: ("policy_version_id",),
    records.Query: ("query_id",),
    records.QueryOverlap: ("overlap_id",),
    records.Rollout: ("rollout_id",),
    records.RolloutTokens: ("subject_id", "role"),
    records.Verification: ("verification_id",),
    records.ErrorLocation: ("error_location_id",),
    records.Correction: ("correction_id",),
    records.SelectionDecision: ("decision_id",),
    records.Advantage: ("run_id", "iteration", "subject_id"),
    records.TokenWeight: ("run_id", "iteration", "subject_id"),
    records.UpdateMetric: ("run_id", "iteration", "optimizer_step", "name"),
    records.Evaluation: ("evaluation_id",),
    records.ColdStartExample: ("example_id",),
    records.Redaction: ("redaction_id",),
    records.Origin: ("origin_id",),
    records.Turn: ("run_id",),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, and one field of its record class."""

    name: str
    sql_type: str
    nullable: bool
    enum: type[StrEnum] | None
    measured: bool = False  #: a measure of the machine, other in each attempt: in no digest


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """One table. Example: `Rollout` is table ``rollout`` with key ``(rollout_id,)``."""

    record_class: type[Any]
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names in the table's order."""
        return tuple(column.name for column in self.columns)

    def first_columns(self, count: int) -> "Table":
        """The table without the columns that came later."""
        return dataclasses.replace(self, columns=self.columns[:count])

    @property
    def key_names_iteration(self) -> bool:
        """Whether its key begins with an id that ends with the row's own iteration (`ids.deterministic_id`)."""
        return "iteration" in self.column_names and "iteration" not in self.key


def _column(name: str, hint: Any) -> Column:
    nullable = isinstance(hint, UnionType) and NoneType in get_args(hint)
    if nullable:
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    enum = hint if isinstance(hint, type) and issubclass(hint, StrEnum) else None
    if name.endswith("_id"):
        sql_type = "UUID"
    elif name == "created_at":
        sql_type = "TIMESTAMP"
    else:
        sql_type = _SQL_TYPES[str if enum else hint]
    return Column(name, sql_type, nullable, enum, name in _MEASURED)


def _table(record_class: type[Any], key: tuple[str, ...]) -> Table:
    hints = get_type_hints(record_class)
    columns = tuple(_column(field.name, hints[field.name]) for field in dataclasses.fields(record_class))
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", record_class.__name__).lower()
    return Table(record_class, name, key, columns)


#: Every table that holds records.
TABLES: dict[type[Any], Table] = {record_class: _table(record_class, key) for record_class, key in KEYS.items()}
