"""Before training: which queries of the training set lie in the model's zone of proximal development (ZPD).

Each chunk of queries is one committed stage. The filtered set is a view of the store, written as a file that `data.train` of
another run takes. (Paper: queries whose accuracy under the model is in [12.5%, 87.5%].)
"""

from collections import Counter
from pathlib import Path
from typing import TypedDict

from tapo_core.difficulty import GroupCounts, Reason, judge_zpd
from tapo_core.errors import UserError
from tapo_core.files import publish_text
from tapo_core.ids import canonical_json, deterministic_id, file_sha256
from tapo_core.records import Query, Rollout, RolloutKind, SelectionDecision, SubjectKind, VerificationOutcome
from tapo_core.session import Session
from tapo_core.stages.endings import endings
from tapo_core.stages.sample import sample_rollouts
from tapo_core.stages.verify import verify_rollouts
from tapo_core.store import StageCommit

STAGE = "zpd_filter"


class AccuracyCount(TypedDict):
    """How many queries have about one accuracy."""

    accuracy: float  #: a multiple of 1 / zpd.samples, the nearest one where verdicts are unknown
    n_queries: int
    n_kept: int  #: as decided: queries that were redacted since are among them


class ZpdSummary(TypedDict):
    """What was kept, by which bounds, under which model."""

    run_id: str
    config_digest: str
    policy_version_id: str
    checkpoint_digest: str
    samples: int
    temperature: float
    low: float
    high: float
    n_queries: int
    n_kept: int
    reasons: dict[str, int]
    histogram: list[AccuracyCount]  #: queries without a known verdict are in `reasons` only
    train_sha256: str  #: of zpd/train.jsonl


def zpd_filter(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Rollouts of a chunk of training queries from the initial model, their verdicts, and a decision on each query.

    The rollouts are never trained on, so their kind is evaluation. Seeds do not depend on how queries are cut into chunks.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the initial model.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    settings = session.config.zpd
    queries = session.queries_of(iteration)
    made = sample_rollouts(
        session,
        session.sampling_policy(iteration),
        queries,
        RolloutKind.EVALUATION,
        iteration,
        settings.samples,
        settings.temperature,
        seed_iteration=0,
    )
    rollouts = [record for record in made if isinstance(record, Rollout)]
    verdicts = verify_rollouts(session, rollouts)
    outcomes: dict[str, list[VerificationOutcome]] = {}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        outcomes.setdefault(rollout.query_id, []).append(verdict.outcome)
    decisions = [_decision(session, iteration, query, GroupCounts.of(outcomes[query.query_id])) for query in queries]
    tally = Counter(decision.reason for decision in decisions)
    manifest = {**dict(sorted(tally.items())), **endings(session, iteration, made)}
    return session.commit(STAGE, iteration, input_digest, manifest, [*made, *verdicts, *decisions])


def _decision(session: Session, iteration: int, query: Query, counts: GroupCounts) -> SelectionDecision:
    reason = judge_zpd(counts, session.config.zpd)
    return SelectionDecision(
        decision_id=deterministic_id(
            "decision", run=session.run_id, iteration=iteration, stage=STAGE, subject=query.query_id
        ),
        run_id=session.run_id,
        iteration=iteration,
        subject_kind=SubjectKind.QUERY,
        subject_id=query.query_id,
        selected=reason is Reason.ZPD_INSIDE,
        reason=reason,
        n_correct=counts.n_correct,
        n_wrong=counts.n_wrong,
        n_unknown=counts.n_unknown,
    )


def filtered_set(run_folder: Path) -> Path:
    """Where a run's filtered training set is."""
    return run_folder / "zpd" / "train.jsonl"


def publish_training_set(session: Session) -> ZpdSummary:
    """Write ``zpd/train.jsonl`` and ``zpd/summary.json`` from the decisions in the store, all chunks of them.

    The rows are those that `data.load_queries` reads: problems as they were before data.instruction was put after them, so
    that the next run's own instruction is the only one.

    Raises:
        UserError: no query is inside the zone. Nothing was written.
    """
    settings = session.config.zpd
    decisions = [
        decision
        for chunk in range(1, session.n_chunks + 1)
        for decision in session.load(SelectionDecision, chunk, subject_kind=SubjectKind.QUERY)
    ]
    redacted = session.redacted
    kept = [decision for decision in decisions if decision.selected and decision.subject_id not in redacted]
    reasons = dict(sorted(Counter(decision.reason for decision in decisions).items()))
    if not kept:
        found = ", ".join(f"{reason} {n}" for reason, n in reasons.items())
        raise UserError(
            f"{session.folder}: none of {len(decisions)} queries has an accuracy of {settings.low:g} to {settings.high:g} "
            f"({found}); use easier or harder queries, another model, or wider bounds zpd.low and zpd.high, in a new run"
        )
    file = filtered_set(session.folder)
    publish_text(file, (_row(session, decision) for decision in sorted(kept, key=lambda d: d.subject_id)))
    policy = session.policy_version(0)
    summary = ZpdSummary(
        run_id=session.run_id,
        config_digest=session.config_digest,
        policy_version_id=policy.policy_version_id,
        checkpoint_digest=policy.checkpoint_digest,
        samples=settings.samples,
        temperature=settings.temperature,
        low=settings.low,
        high=settings.high,
        n_queries=len(decisions),
        n_kept=len(kept),
        reasons=reasons,
        histogram=_histogram(decisions, settings.samples),
        train_sha256=file_sha256(file),
    )
    publish_text(file.with_name("summary.json"), [canonical_json(summary)])
    return summary


def _counts(decision: SelectionDecision) -> GroupCounts:
    return GroupCounts(decision.n_correct or 0, decision.n_wrong or 0, decision.n_unknown or 0)


def _row(session: Session, decision: SelectionDecision) -> str:
    query, counts = session.queries[decision.subject_id], _counts(decision)
    return canonical_json(
        {
            "problem": query.problem(session.config.data.instruction),
            "answer": query.gold,
            "id": query.query_id,
            "family": query.family,
            "level": query.level,
            "accuracy": counts.accuracy,
            "n_samples": counts.n_correct + counts.n_wrong,
        }
    )


def _histogram(decisions: list[SelectionDecision], samples: int) -> list[AccuracyCount]:
    every: Counter[int] = Counter()
    kept: Counter[int] = Counter()
    for decision in decisions:
        accuracy = _counts(decision).accuracy
        if accuracy is not None:
            place = round(accuracy * samples)
            every[place] += 1
            kept[place] += decision.selected
    return [AccuracyCount(accuracy=n / samples, n_queries=every[n], n_kept=kept[n]) for n in range(samples + 1)]
