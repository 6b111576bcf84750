"""Evaluation of one policy version: every metric with its interval, and every rollout it rests on."""

from collections.abc import Sequence

from tapo_core import reflection
from tapo_core.ids import deterministic_id
from tapo_core.records import Evaluation, PolicyVersion, Query, Rollout, RolloutKind, Verification, VerificationOutcome
from tapo_core.session import Session
from tapo_core.stages.endings import endings
from tapo_core.stages.sample import sample_rollouts
from tapo_core.stages.verify import verify_rollouts
from tapo_core.statistics import Sampled, estimates
from tapo_core.store import Record, StageCommit
from tapo_core.verification.reading import canonical_answer

STAGE = "evaluate"


def evaluate(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Sample and verify the held-out queries and the benchmarks with the policy that came out of `iteration`.

    The seeds are the same at every iteration, so that two policy versions differ by their weights alone. Rollouts with an
    unknown verdict are left out of every metric and counted in the manifest.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    policy = session.policy_version(iteration)
    records: list[Record] = []
    manifest: dict[str, object] = {}
    n_rollouts = n_unknown = 0
    for dataset, queries in _datasets(session).items():
        made, rollouts, verdicts = _sampled(session, policy, queries)
        records += made
        results = _evaluations(session, policy, dataset, rollouts, verdicts)
        records += results
        n_rollouts += len(rollouts)
        n_unknown += sum(verdict.reward is None for verdict in verdicts)
        for result in results:
            if result.metric == "pass@1":
                prefix = "" if dataset == "held_out" else f"{dataset}/"
                manifest |= {f"{prefix}pass@1": result.value, f"{prefix}low": result.low, f"{prefix}high": result.high}
    manifest |= {"n_rollouts": n_rollouts, "n_unknown": n_unknown, **endings(session, iteration, records)}
    return session.commit(STAGE, iteration, input_digest, manifest, records)


def _datasets(session: Session) -> dict[str, list[Query]]:
    """The queries of each data set, by id: the first so many held-out ones, benchmarks whole. Of these, redacted ones are left
    out, so that the others are the same before and after.
    """
    settings = session.config.evaluation
    by_split: dict[str, list[Query]] = {"held_out": [], **{name: [] for name in sorted(settings.datasets)}}
    for query in sorted(session.queries.values(), key=lambda q: q.query_id):
        if query.split in by_split:
            by_split[query.split].append(query)
    by_split["held_out"] = by_split["held_out"][: settings.queries]
    redacted = session.redacted
    return {split: [q for q in queries if q.query_id not in redacted] for split, queries in by_split.items()}


def _sampled(
    session: Session, policy: PolicyVersion, queries: Sequence[Query]
) -> tuple[list[Record], list[Rollout], list[Verification]]:
    settings = session.config.evaluation
    made = sample_rollouts(
        session,
        policy,
        queries,
        RolloutKind.EVALUATION,
        policy.iteration,
        settings.samples,
        settings.temperature,
        seed_iteration=0,
    )
    rollouts = [record for record in made if isinstance(record, Rollout)]
    verdicts = verify_rollouts(session, rollouts)
    return [*made, *verdicts], rollouts, verdicts


def _evaluations(
    session: Session, policy: PolicyVersion, dataset: str, rollouts: Sequence[Rollout], verdicts: Sequence[Verification]
) -> list[Evaluation]:
    """One row a metric; none if every verdict is unknown."""
    settings = session.config.evaluation
    problems: dict[str, list[Sampled]] = {}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        if verdict.reward is not None:
            problems.setdefault(rollout.query_id, []).append(sampled(rollout, verdict))
    if not problems:
        return []
    seed = session.seed(0, "bootstrap")
    found = estimates(list(problems.values()), settings.confidence, settings.resamples, seed)
    return [
        Evaluation(
            evaluation_id=deterministic_id(
                "evaluation",
                iteration=policy.iteration,
                policy=policy.policy_version_id,
                dataset=dataset,
                metric=metric,
            ),
            run_id=session.run_id,
            iteration=policy.iteration,
            policy_version_id=policy.policy_version_id,
            dataset=dataset,
            metric=metric,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            confidence=settings.confidence,
            interval_method=f"bootstrap over problems, percentile; reflection by {reflection.VERSION}",
            n_queries=len(problems),
            n_samples=settings.samples,
        )
        for metric, estimate in found.items()
    ]


def sampled(rollout: Rollout, verdict: Verification) -> Sampled:
    """What the metrics need of one verified rollout."""
    return Sampled(
        correct=verdict.outcome is VerificationOutcome.CORRECT,
        answer=None if verdict.extracted_answer is None else canonical_answer(verdict.extracted_answer),
        reflects=reflection.reflects(rollout.text),
        n_tokens=rollout.n_tokens,
    )
