"""Which rows a row needs: the store's foreign keys, checked by SQL in the transaction that writes.

(DuckDB's own foreign keys make large inserts five times slower and stand in the way of migrations.)
"""

from dataclasses import dataclass
from typing import Any

import duckdb

from tapo_core import records
from tapo_core.errors import IntegrityError
from tapo_core.store.tables import TABLES, Record, Table


@dataclass(frozen=True, slots=True)
class Parent:
    """A column that holds the key of a row of another table, for child rows that fulfil a condition."""

    column: str
    record_class: type[Record]
    condition: str = "true"


_SUBJECTS = (
    Parent("subject_id", records.Query, "subject_kind = 'query'"),
    Parent("subject_id", records.Rollout, "subject_kind = 'rollout'"),
    Parent("subject_id", records.Correction, "subject_kind = 'constructed'"),
)
_QUERY = Parent("query_id", records.Query)
_POLICY_VERSION = Parent("policy_version_id", records.PolicyVersion)

#: That a row's run is the run of the commit is checked apart, see `writer`.
PARENTS: dict[type[Any], tuple[Parent, ...]] = {
    records.Run: (Parent("config_digest", records.Config),),
    records.Config: (),
    records.PolicyVersion: (Parent("parent_policy_version_id", records.PolicyVersion),),
    records.Query: (),
    records.QueryOverlap: (_QUERY, Parent("other_query_id", records.Query)),
    records.Rollout: (_QUERY, _POLICY_VERSION),
    records.RolloutTokens: (
        Parent("subject_id", records.Rollout, "role = 'rollout'"),
        Parent("subject_id", records.Correction, "role IN ('correction', 'constructed')"),
    ),
    records.Verification: _SUBJECTS,
    records.ErrorLocation: (
        Parent("rollout_id", records.Rollout),
        Parent("reference_rollout_id", records.Rollout),
        _POLICY_VERSION,
    ),
    records.Correction: (
        _QUERY,
        Parent("wrong_rollout_id", records.Rollout),
        Parent("reference_rollout_id", records.Rollout),
        Parent("error_location_id", records.ErrorLocation),
        _POLICY_VERSION,
    ),
    records.SelectionDecision: _SUBJECTS,
    records.Advantage: (*_SUBJECTS, _QUERY),
    records.TokenWeight: (Parent("subject_id", records.Correction),),
    records.UpdateMetric: (_POLICY_VERSION,),
    records.Evaluation: (_POLICY_VERSION,),
    records.ColdStartExample: (
        _QUERY,
        Parent("subject_id", records.Rollout, "kind = 'sft'"),
        Parent("subject_id", records.Correction, "kind = 'ift'"),
    ),
}


def check_parents(connection: duckdb.DuckDBPyConnection, table: Table, incoming: str) -> None:
    """Look for rows without a parent among the incoming rows of a table.

    Raises:
        IntegrityError: naming the child, the column and the id that is nowhere.
    """
    for parent in PARENTS[table.record_class]:
        parent_table = TABLES[parent.record_class]
        (parent_key,) = parent_table.key
        orphan = connection.execute(
            f"SELECT {parent.column}, {', '.join(table.key)} FROM {incoming} AS child "
            f"WHERE {parent.column} IS NOT NULL AND {parent.condition} AND NOT EXISTS "
            f"(SELECT 1 FROM {parent_table.name} AS parent WHERE parent.{parent_key} = child.{parent.column}) LIMIT 1"
        ).fetchone()
        if orphan is not None:
            key = ", ".join(f"{name}={value}" for name, value in zip(table.key, orphan[1:], strict=True))
            raise IntegrityError(
                f"{table.name} ({key}): {parent.column} {orphan[0]} is not in {parent_table.name}. Nothing was written."
            )
