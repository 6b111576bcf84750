"""What the viewer's pages about a run, an iteration and a group show, as plain records. All of it is asked of a snapshot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tapo_core.records import RolloutKind
from tapo_core.store.view_snapshots import Connection

#: Tables and views that the pages about one iteration ask.
ITERATION_TABLES = frozenset(
    {
        *("query", "rollout", "verification", "correction", "selection_decision", "advantage", "error_location"),
        *("verdict", "newest_verdict"),
    }
)
RUN_TABLES = frozenset({"run", "config", "config_change", "origin"})
EVALUATION_TABLES = frozenset({"evaluation", "newest_evaluation"})
METRIC_TABLES = frozenset({"update_metric"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run is, with its newest configuration."""

    run_id: str
    name: str
    seed: int
    method: str
    tapo_version: str
    created_at: str
    config_digest: str
    engines: dict[str, str]  #: package -> version
    config: dict[str, Any]
    origin: str | None  #: the run and iteration whose policy it began with


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One metric of one policy version on one data set."""

    iteration: int
    dataset: str
    metric: str
    value: float
    low: float
    high: float
    confidence: float
    interval_method: str
    n_queries: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """The mean of a number about one iteration's update, over its optimizer steps."""

    name: str
    iteration: int
    value: float


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """A query in an iteration: how its rollouts did."""

    query_id: str
    text: str
    gold: str
    n_rollouts: int
    n_correct: int
    n_wrong: int
    n_no_answer: int
    n_unknown: int
    n_answers: int  #: different ones
    mean_tokens: float
    decision: str | None  #: None: not decided yet, or an evaluation


@dataclass(frozen=True, slots=True)
class ConstructionRow:
    """One attempt to diagnose and correct a wrong rollout."""

    correction_id: str
    query_id: str
    wrong_rollout_id: str
    wrong_k: int | None
    parse_outcome: str
    parse_detail: str | None
    outcome: str | None  #: verdict on the constructed trajectory; None when there is none
    advantage: float | None
    decision: str | None
    diagnosis: str | None
    correction: str | None


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One rollout of a group, with its verdict, its advantage and what was decided about it."""

    rollout_id: str
    k: int
    kind: str
    text: str
    n_tokens: int
    finish_reason: str
    seed: int
    outcome: str | None  #: None: not verified yet
    reward: float | None
    extracted_answer: str | None
    tier: str | None
    reason: str | None
    milliseconds: float | None
    outcome_now: str | None  #: what a later `tapo verify --again` said
    advantage: float | None
    decision: str | None
    error_method: str | None  #: who saw its first error
    error_step: int | None
    error_evidence: str | None


@dataclass(frozen=True, slots=True)
class QueryFacts:
    """A query, wherever it was sampled."""

    query_id: str
    split: str
    text: str
    gold: str
    family: str | None
    level: int | None
    source: str


def _records(connection: Connection, kind: type[T], sql: str, parameters: Mapping[str, object]) -> list[T]:
    """The rows of a question as records; its columns are their fields, in order."""
    return [kind(*row) for row in connection.execute(sql, dict(parameters)).fetchall()]


def run_facts(connection: Connection) -> RunFacts | None:
    """What the run is; None before its first commit. Needs `RUN_TABLES`."""
    row = connection.execute(
        "SELECT CAST(run.run_id AS VARCHAR), run.name, run.seed, run.method, run.tapo_version, CAST(run.created_at AS VARCHAR), "
        "coalesce(change.config_digest, run.config_digest), run.engine_versions, "
        "coalesce(change.config_json, config.config_json) "
        "FROM run JOIN config ON config.config_digest = run.config_digest "
        "LEFT JOIN config_change AS change ON change.run_id = run.run_id ORDER BY change.number DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    run_id, name, seed, method, version, created_at, config_digest, engines, config = row
    origin = connection.execute("SELECT parent_run_name, parent_iteration FROM origin LIMIT 1").fetchone()
    told = None if origin is None else f"{origin[0]}, iteration {origin[1]}"
    return RunFacts(
        *(run_id, name, seed, method, version, created_at, config_digest),
        engines=json.loads(engines),
        config=json.loads(config),
        origin=told,
    )


def evaluations(connection: Connection) -> list[EvaluationRow]:
    """The newest evaluation of each policy version, by data set, metric and iteration. Needs `EVALUATION_TABLES`."""
    sql = (
        "SELECT iteration, dataset, metric, value, low, high, confidence, interval_method, n_queries, n_samples "
        "FROM newest_evaluation ORDER BY dataset <> 'held_out', dataset, metric, iteration"
    )
    return _records(connection, EvaluationRow, sql, {})


def update_metrics(connection: Connection) -> list[MetricPoint]:
    """Numbers about the updates, by name and iteration. Needs `METRIC_TABLES`."""
    sql = "SELECT name, iteration, avg(value) FROM update_metric GROUP BY name, iteration ORDER BY name, iteration"
    return _records(connection, MetricPoint, sql, {})


def query_groups(
    connection: Connection, iteration: int, kind: RolloutKind, after: str | None, limit: int
) -> list[QueryGroup]:
    """Queries that an iteration sampled, by id; those after an id, `limit` at most. Needs `ITERATION_TABLES`."""
    sql = """
        SELECT CAST(rollout.query_id AS VARCHAR), any_value(query.text), any_value(query.gold), count(*),
            count(*) FILTER (WHERE verdict.outcome = 'correct'), count(*) FILTER (WHERE verdict.outcome = 'wrong'),
            count(*) FILTER (WHERE verdict.outcome = 'no_answer'), count(*) FILTER (WHERE verdict.outcome = 'unknown'),
            count(DISTINCT verdict.extracted_answer), avg(rollout.n_tokens), any_value(selection_decision.reason)
        FROM rollout
        JOIN query ON query.query_id = rollout.query_id
        LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
        LEFT JOIN selection_decision
            ON selection_decision.subject_kind = 'query' AND selection_decision.subject_id = rollout.query_id
            AND selection_decision.iteration = rollout.iteration AND rollout.kind = 'training'
        WHERE rollout.iteration = $iteration AND rollout.kind = $kind
            AND ($after IS NULL OR rollout.query_id > TRY_CAST($after AS UUID))
        GROUP BY rollout.query_id ORDER BY rollout.query_id LIMIT $limit"""
    given = {"iteration": iteration, "kind": str(kind), "after": after, "limit": limit}
    return _records(connection, QueryGroup, sql, given)


def constructions(
    connection: Connection, iteration: int, *, query_id: str | None = None, limit: int
) -> list[ConstructionRow]:
    """Constructions of an iteration, or of one query in it, in the order of their ids. Needs `ITERATION_TABLES`."""
    sql = """
        SELECT CAST(correction.correction_id AS VARCHAR), CAST(correction.query_id AS VARCHAR),
            CAST(correction.wrong_rollout_id AS VARCHAR), rollout.k, correction.parse_outcome, correction.parse_detail,
            verdict.outcome, advantage.value, selection_decision.reason, correction.diagnosis, correction.correction
        FROM correction
        LEFT JOIN rollout ON rollout.rollout_id = correction.wrong_rollout_id
        LEFT JOIN verdict ON verdict.subject_kind = 'constructed' AND verdict.subject_id = correction.correction_id
        LEFT JOIN advantage
            ON advantage.subject_kind = 'constructed' AND advantage.subject_id = correction.correction_id
            AND advantage.iteration = correction.iteration
        LEFT JOIN selection_decision
            ON selection_decision.subject_kind = 'constructed'
            AND selection_decision.subject_id = correction.correction_id
            AND selection_decision.iteration = correction.iteration
        WHERE correction.iteration = $iteration
            AND ($query_id IS NULL OR correction.query_id = TRY_CAST($query_id AS UUID))
        ORDER BY correction.correction_id LIMIT $limit"""
    return _records(connection, ConstructionRow, sql, {"iteration": iteration, "query_id": query_id, "limit": limit})


def query_facts(connection: Connection, query_id: str) -> QueryFacts | None:
    """One query; None when the run has none with this id. Needs `ITERATION_TABLES`."""
    sql = (
        "SELECT CAST(query_id AS VARCHAR), split, text, gold, family, level, source FROM query "
        "WHERE query_id = TRY_CAST($query_id AS UUID)"
    )
    return next(iter(_records(connection, QueryFacts, sql, {"query_id": query_id})), None)


def group_members(connection: Connection, iteration: int, query_id: str) -> list[GroupMember]:
    """The rollouts of a query in an iteration: training, then evaluation, each in its order. Needs `ITERATION_TABLES`."""
    sql = """
        WITH located AS (
            SELECT rollout_id, arg_min(method, method) AS method, arg_min(step, method) AS step,
                arg_min(evidence, method) AS evidence
            FROM error_location WHERE step IS NOT NULL GROUP BY rollout_id
        )
        SELECT CAST(rollout.rollout_id AS VARCHAR), rollout.k, rollout.kind, rollout.text, rollout.n_tokens,
            rollout.finish_reason, rollout.seed, verdict.outcome, verdict.reward, verdict.extracted_answer, verdict.tier,
            verdict.reason, verification.milliseconds,
            CASE WHEN newest_verdict.again IS NOT NULL THEN newest_verdict.outcome END,
            advantage.value, selection_decision.reason, located.method, located.step, located.evidence
        FROM rollout
        LEFT JOIN verdict ON verdict.subject_kind = 'rollout' AND verdict.subject_id = rollout.rollout_id
        LEFT JOIN verification ON verification.verification_id = verdict.verification_id
        LEFT JOIN newest_verdict
            ON newest_verdict.subject_kind = 'rollout' AND newest_verdict.subject_id = rollout.rollout_id
        LEFT JOIN advantage
            ON advantage.subject_kind = 'rollout' AND advantage.subject_id = rollout.rollout_id
            AND advantage.iteration = rollout.iteration
        LEFT JOIN selection_decision
            ON selection_decision.subject_kind = 'rollout' AND selection_decision.subject_id = rollout.rollout_id
            AND selection_decision.iteration = rollout.iteration
        LEFT JOIN located ON located.rollout_id = rollout.rollout_id
        WHERE rollout.iteration = $iteration AND rollout.query_id = TRY_CAST($query_id AS UUID)
        ORDER BY rollout.kind DESC, rollout.k, rollout.rollout_id"""
    return _records(connection, GroupMember, sql, {"iteration": iteration, "query_id": query_id})
