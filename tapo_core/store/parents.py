"""Which rows a row needs: the store's foreign keys, checked by SQL in the transaction that writes.

(DuckDB's own foreign keys make large inserts five times slower and stand in the way of migrations.)
"""

from dataclasses import dataclass
from typing import Any

import duckdb

from tapo_core import records
from tapo_core.errors import IntegrityError
from tapo_core.store.batches import Batch
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
    records.ConfigChange: (Parent("config_digest", records.Config),),
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
    records.Redaction: (_QUERY,),
    records.Turn: (),
    records.Origin: (_POLICY_VERSION,),  # the other ids are of another run's store
}


def check_parents(connection: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Look for rows without a parent among the incoming rows of a table.

    Raises:
        IntegrityError: naming the child, the column and the id that is nowhere.
    """
    table, near = batch.table, batch.same_iterations("parent")
    for parent in PARENTS[table.record_class]:
        parent_table = TABLES[parent.record_class]
        # Most parents are of the same iteration, which is at one place in the table; only what is not there is looked for
        # everywhere, so that a commit into a large store does not read all of it.
        orphan = None
        for where in (near if "iteration" in parent_table.column_names else None, "true"):
            if where is not None:
                orphan = _orphan(connection, table, batch.incoming, parent, where)
                if orphan is None:
                    break
        if orphan is not None:
            key = ", ".join(f"{name}={value}" for name, value in zip(table.key, orphan[1:], strict=True))
            raise IntegrityError(
                f"{table.name} ({key}): {parent.column} {orphan[0]} is not in {parent_table.name}. Nothing was written."
            )


def _orphan(
    connection: duckdb.DuckDBPyConnection, table: Table, incoming: str, parent: Parent, where: str
) -> tuple[Any, ...] | None:
    """The id that is not there and the key of the row that names it, for one incoming row without a parent `where` it holds."""
    parent_table = TABLES[parent.record_class]
    (parent_key,) = parent_table.key
    return connection.execute(
        f"SELECT {parent.column}, {', '.join(table.key)} FROM {incoming} AS child "
        f"WHERE {parent.column} IS NOT NULL AND {parent.condition} AND NOT EXISTS "
        f"(SELECT 1 FROM {parent_table.name} AS parent WHERE parent.{parent_key} = child.{parent.column} AND {where}) LIMIT 1"
    ).fetchone()


#: How a new row is known to be about a query, in tables whose rows have texts or go into training.
_QUERY_OF = {
    "rollout": "child.query_id",
    "correction": "child.query_id",
    "advantage": "child.query_id",
    "cold_start_example": "child.query_id",
    "error_location": "(SELECT query_id FROM rollout WHERE rollout.rollout_id = child.rollout_id)",
    "verification": "(SELECT query_id FROM rollout WHERE rollout.rollout_id = child.subject_id)",
}


def check_not_redacted(connection: duckdb.DuckDBPyConnection, table: Table, incoming: str) -> None:
    """Refuse what a stage made of a query that was redacted while it was at work.

    Raises:
        IntegrityError: naming the query.
    """
    if table.name not in _QUERY_OF or connection.execute("SELECT 1 FROM redaction LIMIT 1").fetchone() is None:
        return
    found = connection.execute(
        f"SELECT DISTINCT query_id FROM redaction WHERE query_id IN "
        f"(SELECT {_QUERY_OF[table.name]} FROM {incoming} AS child) LIMIT 1"
    ).fetchone()
    if found is not None:
        raise IntegrityError(
            f"{table.name}: query {found[0]} was redacted meanwhile, and this stage has rows about it. Nothing was written; "
            "start the command again, and it goes on without the query."
        )
