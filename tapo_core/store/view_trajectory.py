"""All that the store knows about one trajectory: a rollout, or what a correction constructed.

What belongs to a trajectory was committed in its own iteration (queries and the run itself in the first one), and its id says
which that is. So a snapshot of that iteration is enough, however long the run is.
"""

import dataclasses
from typing import Any, TypeVar

import duckdb

from tapo_core.records import (
    Advantage,
    Correction,
    ErrorLocation,
    PolicyVersion,
    Query,
    Rollout,
    RolloutTokens,
    Run,
    SelectionDecision,
    TokenRole,
    TokenWeight,
    Verification,
)
from tapo_core.store.rows import select_list, to_records
from tapo_core.store.tables import TABLES, Record

R = TypeVar("R", bound=Record)

#: Tables and views that are asked here.
TRAJECTORY_TABLES = frozenset(
    {
        *(
            "run",
            "query",
            "rollout",
            "rollout_tokens",
            "verification",
            "error_location",
            "correction",
            "policy_version",
        ),
        *("selection_decision", "advantage", "token_weight", "verdict", "why_in_batch", "correction_outcome"),
        *("config", "config_change", "config_revision", "iteration_revision"),  # which why_in_batch needs
    }
)
#: One of the ids of a trajectory, its wrong rollout and its reference.
_AMONG = "IN ($own, $wrong, $reference)"
#: Of several locations of one error, whose is shown first (as in the view `wrong_rollout`).
_METHODS = "['task', 'policy', 'arithmetic', 'continuation', 'construction']"


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """A rollout with its verdict, and its tokens if they are stored."""

    rollout: Rollout
    verdict: Verification | None  #: the one that training saw
    tokens: RolloutTokens | None


@dataclasses.dataclass(frozen=True, slots=True)
class Neighbours:
    """The trajectories of the same kind before and after one in its iteration, in the order of query and k."""

    previous_id: str | None
    next_id: str | None
    place: int  #: from 1
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Trajectory:
    """One trajectory with everything that its page shows."""

    run: Run
    query: Query
    iteration: int
    rollout: Judged | None  #: the rollout itself; None for a construction
    correction: Correction | None  #: None for a rollout
    wrong: Judged | None  #: what was corrected
    reference: Judged | None  #: the correct sibling that was shown
    raw_tokens: RolloutTokens | None  #: of the construction as it was sampled
    tokens: RolloutTokens | None  #: of the trajectory itself
    weight: TokenWeight | None
    verdicts: tuple[Verification, ...]  #: the one that training saw first, then those of `tapo verify --again`
    locations: tuple[ErrorLocation, ...]  #: of the rollout, or of the wrong rollout, the most trusted method first
    decision: SelectionDecision | None
    advantage: Advantage | None
    why_in_batch: dict[str, Any] | None  #: its row of the view
    policies: tuple[PolicyVersion, ...]  #: that it was sampled from, then the initial one
    corrections: tuple[Correction, ...]  #: attempts to correct the rollout, or that it was the reference of
    neighbours: Neighbours

    @property
    def id(self) -> str:
        """The rollout's id, or the correction's."""
        if self.correction is not None:
            return self.correction.correction_id
        assert self.rollout is not None
        return self.rollout.rollout.rollout_id


def read_trajectory(connection: duckdb.DuckDBPyConnection, subject_id: str) -> Trajectory | None:
    """The trajectory with an id, from a snapshot of its iteration (`ids.iteration_of`); None if it is not there."""
    correction = _one(_rows(connection, Correction, "correction_id = $id", id=subject_id))
    wrong_id, reference_id = (
        (None, None) if correction is None else (correction.wrong_rollout_id, correction.reference_rollout_id)
    )
    ids: dict[str, Any] = {"own": subject_id, "wrong": wrong_id, "reference": reference_id}
    # All three at once: a question costs more than the rows that it is about.
    rollouts = {row.rollout_id: row for row in _rows(connection, Rollout, f"rollout_id {_AMONG}", **ids)}
    made = rollouts.get(subject_id) if correction is None else correction
    if made is None:
        return None
    tokens = {
        (row.subject_id, row.role): row for row in _rows(connection, RolloutTokens, f"subject_id {_AMONG}", **ids)
    }
    verdicts = _verdicts(connection, ids)

    def judged(rollout_id: str | None) -> Judged | None:
        if rollout_id is None or rollout_id not in rollouts:
            return None
        verdict = _one(verdicts.get(rollout_id, []))
        return Judged(rollouts[rollout_id], verdict, tokens.get((rollout_id, TokenRole.ROLLOUT)))

    role = TokenRole.ROLLOUT if correction is None else TokenRole.CONSTRUCTED
    (query,) = _rows(connection, Query, "query_id = $id", id=made.query_id)
    (run,) = _rows(connection, Run, "run_id = $id", id=made.run_id)
    return Trajectory(
        run=run,
        query=query,
        iteration=made.iteration,
        rollout=judged(subject_id),
        correction=correction,
        wrong=judged(wrong_id),
        reference=judged(reference_id),
        raw_tokens=tokens.get((subject_id, TokenRole.CORRECTION)),
        tokens=tokens.get((subject_id, role)),
        weight=_one(_rows(connection, TokenWeight, "subject_id = $id", id=subject_id)),
        verdicts=tuple(verdicts.get(subject_id, ())),
        locations=tuple(
            _rows(
                connection,
                ErrorLocation,
                "rollout_id = $id",
                order=f"step IS NULL, coalesce(list_position({_METHODS}, method), 9)",
                id=wrong_id or subject_id,
            )
        ),
        decision=_one(_rows(connection, SelectionDecision, "subject_id = $id", id=subject_id)),
        advantage=_one(_rows(connection, Advantage, "subject_id = $id", id=subject_id)),
        why_in_batch=_why(connection, subject_id),
        policies=tuple(
            _rows(
                connection,
                PolicyVersion,
                "policy_version_id = $id OR iteration = 0",
                order="iteration DESC",
                id=made.policy_version_id,
            )
        ),
        corrections=()
        if correction is not None
        else tuple(
            _rows(connection, Correction, "wrong_rollout_id = $id OR reference_rollout_id = $id", id=subject_id)
        ),
        neighbours=_neighbours(connection, made),
    )


def sample_constructions(connection: duckdb.DuckDBPyConnection, iteration: int, count: int) -> list[tuple[str, str]]:
    """Ids of some constructions of an iteration and of their queries: one of each outcome, then the next of each.

    Of one outcome they come in the order of their ids, which is as good as random.
    """
    return connection.execute(
        "SELECT CAST(correction_id AS VARCHAR), CAST(query_id AS VARCHAR) FROM correction_outcome WHERE iteration = $iteration "
        "ORDER BY row_number() OVER (PARTITION BY outcome ORDER BY correction_id), outcome LIMIT $count",
        {"iteration": iteration, "count": count},
    ).fetchall()


def _rows(
    connection: duckdb.DuckDBPyConnection, record_class: type[R], where: str, order: str = "", **values: Any
) -> list[R]:
    """The records of one class that fulfil a condition, ordered by key, or by something before it."""
    table = TABLES[record_class]
    by = ", ".join(part for part in (order, *(f"{table.name}.{key}" for key in table.key)) if part)
    sql = f"SELECT {select_list(table)} FROM {table.name} WHERE {where} ORDER BY {by}"
    return to_records(table, connection.execute(sql, values).fetchall())


def _one(rows: list[R]) -> R | None:
    return rows[0] if rows else None


def _verdicts(connection: duckdb.DuckDBPyConnection, ids: dict[str, Any]) -> dict[str, list[Verification]]:
    """What was said about some texts: first the verdict that counts (see the view `verdict`), then the others by age."""
    order = f"verification_id NOT IN (SELECT verification_id FROM verdict WHERE subject_id {_AMONG}), again"
    found: dict[str, list[Verification]] = {}
    for row in _rows(connection, Verification, f"subject_id {_AMONG}", order, **ids):
        found.setdefault(row.subject_id, []).append(row)
    return found


def _why(connection: duckdb.DuckDBPyConnection, subject_id: str) -> dict[str, Any] | None:
    cursor = connection.execute("SELECT * FROM why_in_batch WHERE subject_id = $id", {"id": subject_id})
    names = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    return None if row is None else dict(zip(names, row, strict=True))


def _neighbours(connection: duckdb.DuckDBPyConnection, made: Rollout | Correction) -> Neighbours:
    """Rollouts of the same kind stand by query and k, constructions as the rollouts that they correct."""
    if isinstance(made, Correction):
        own, values = made.correction_id, {}
        ordered = """
            SELECT correction_id AS id, correction.query_id, k, correction_id AS last
            FROM correction JOIN rollout ON rollout_id = wrong_rollout_id
        """
    else:
        own, values = made.rollout_id, {"kind": str(made.kind)}
        ordered = "SELECT rollout_id AS id, query_id, k, rollout_id AS last FROM rollout WHERE kind = $kind"
    place = "(ORDER BY query_id, k, last)"
    row = connection.execute(
        f"SELECT previous, next, place, n FROM (SELECT id, CAST(lag(id) OVER {place} AS VARCHAR) AS previous, "
        f"CAST(lead(id) OVER {place} AS VARCHAR) AS next, row_number() OVER {place} AS place, count(*) OVER () AS n "
        f"FROM ({ordered})) WHERE id = $id",
        {**values, "id": own},
    ).fetchone()
    assert row is not None
    return Neighbours(*row)
