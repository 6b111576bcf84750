"""Evaluation of one policy version: every metric with its interval, and every rollout it rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

from tapo_core import reflection
from tapo_core.config import TapoConfig
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
HELD_OUT = "held_out"

#: What a data set is evaluated with: keys queries, samples, temperature, confidence and resamples.
Settings = dict[str, Any]


def evaluate(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Sample and verify the held-out queries and the benchmarks with the policy that came out of `iteration`.

    The seeds are the same at every iteration, so that two policy versions differ by their weights alone. Rollouts with an
    unknown verdict are left out of every metric and counted in the manifest. A policy version that was evaluated is not evaluated
    again, whatever the settings are by now: see `evaluate_further`.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    return _evaluate(session, iteration, input_digest, settings_of(session.config), None)


def evaluate_further(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Evaluate a policy version, which was evaluated before, on the data sets that are new or whose newest evaluation had other
    settings. What was stored before stays beside it. Without such a data set the newest evaluation is returned.

    Raises:
        TransientError, PolicyMismatchError: see `evaluate`.
    """
    made = evaluations(session, iteration)
    wanted = unevaluated(session, iteration)
    if not wanted:
        return made[-1]
    return _evaluate(session, iteration, input_digest, wanted, len(made) + 1)


def evaluate_as(session: Session, commit: StageCommit) -> StageCommit:
    """Make an evaluation once more, on the data sets and with the settings that it was made with."""
    settings = _settings(session, commit)
    return _evaluate(session, commit.iteration, commit.input_digest, settings, again_of(commit.stage))


def settings_of(config: TapoConfig) -> dict[str, Settings]:
    """What each data set is evaluated with, as the manifest names it. `queries`: at most so many of it; None: all."""
    evaluation = config.evaluation
    shared = {
        "samples": evaluation.samples,
        "temperature": evaluation.temperature,
        "confidence": evaluation.confidence,
        "resamples": evaluation.resamples,
    }
    benchmarks = {name: {"queries": None, **shared} for name in sorted(evaluation.datasets)}
    return {HELD_OUT: {"queries": evaluation.queries, **shared}, **benchmarks}


def is_evaluation(stage: str) -> bool:
    """Whether a commit's stage is an evaluation, the first or a further one."""
    return stage == STAGE or stage.startswith(f"{STAGE}-")


def again_of(stage: str) -> int | None:
    """The number of a further evaluation from its commit's stage; None for any other stage."""
    return int(stage.removeprefix(f"{STAGE}-")) if stage.startswith(f"{STAGE}-") else None


def evaluations(session: Session, iteration: int) -> list[StageCommit]:
    """The evaluations of the policy version that came out of an iteration, oldest first."""
    return [commit for commit in session.commits() if commit.iteration == iteration and is_evaluation(commit.stage)]


def unevaluated(session: Session, iteration: int) -> dict[str, Settings]:
    """The data sets of the configuration whose newest evaluation of a policy version was not made with its settings."""
    newest: dict[str, Settings] = {}
    for commit in evaluations(session, iteration):
        newest |= _settings(session, commit)
    wanted = settings_of(session.config)
    return {name: settings for name, settings in wanted.items() if newest.get(name) != settings}


def _settings(session: Session, commit: StageCommit) -> dict[str, Settings]:
    """What an evaluation was made with. Older versions of TAPO left it to the configuration, which could not change."""
    told: dict[str, Settings] | None = commit.manifest.get("datasets")
    if told is not None:
        return told
    return settings_of(session.config if session.history is None else session.history.revisions[0].config)


def _evaluate(
    session: Session, iteration: int, input_digest: str, datasets: Mapping[str, Settings], again: int | None
) -> StageCommit:
    policy = session.policy_version(iteration)
    records: list[Record] = []
    manifest: dict[str, Any] = {"n_rollouts": 0, "n_unknown": 0, "datasets": dict(datasets)}
    for dataset, settings in datasets.items():
        queries = _queries(session, dataset, settings)
        made, rollouts, verdicts = _sampled(session, policy, queries, settings, again)
        records += made
        results = _evaluations(session, policy, dataset, settings, rollouts, verdicts, again)
        records += results
        manifest["n_rollouts"] += len(rollouts)
        manifest["n_unknown"] += sum(verdict.reward is None for verdict in verdicts)
        for result in results:
            if result.metric == "pass@1":
                prefix = "" if dataset == HELD_OUT else f"{dataset}/"
                manifest |= {f"{prefix}pass@1": result.value, f"{prefix}low": result.low, f"{prefix}high": result.high}
    manifest |= endings(session, iteration, records)
    stage = STAGE if again is None else f"{STAGE}-{again}"
    return session.commit(stage, iteration, input_digest, manifest, records)


def _queries(session: Session, dataset: str, settings: Settings) -> list[Query]:
    """The queries of a data set, by id: of the held-out ones the first so many. Of these, redacted ones are left out, so that the
    others are the same before and after.
    """
    found = sorted((q for q in session.queries.values() if q.split == dataset), key=lambda q: q.query_id)
    redacted = session.redacted
    return [query for query in found[: settings["queries"]] if query.query_id not in redacted]


def _sampled(
    session: Session, policy: PolicyVersion, queries: Sequence[Query], settings: Settings, again: int | None
) -> tuple[list[Record], list[Rollout], list[Verification]]:
    made = sample_rollouts(
        session,
        policy,
        queries,
        RolloutKind.EVALUATION,
        policy.iteration,
        settings["samples"],
        settings["temperature"],
        seed_iteration=0,
        again=again,
    )
    rollouts = [record for record in made if isinstance(record, Rollout)]
    verdicts = verify_rollouts(session, rollouts)
    return [*made, *verdicts], rollouts, verdicts


def _evaluations(
    session: Session,
    policy: PolicyVersion,
    dataset: str,
    settings: Settings,
    rollouts: Sequence[Rollout],
    verdicts: Sequence[Verification],
    again: int | None,
) -> list[Evaluation]:
    """One row for each metric; none if every verdict is unknown."""
    further = {} if again is None else {"again": again}
    problems: dict[str, list[Sampled]] = {}
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        if verdict.reward is not None:
            problems.setdefault(rollout.query_id, []).append(sampled(rollout, verdict))
    if not problems:
        return []
    seed = session.seed(0, "bootstrap")
    found = estimates(list(problems.values()), settings["confidence"], settings["resamples"], seed)
    return [
        Evaluation(
            evaluation_id=deterministic_id(
                "evaluation",
                iteration=policy.iteration,
                policy=policy.policy_version_id,
                dataset=dataset,
                metric=metric,
                **further,
            ),
            run_id=session.run_id,
            iteration=policy.iteration,
            policy_version_id=policy.policy_version_id,
            dataset=dataset,
            metric=metric,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            confidence=settings["confidence"],
            interval_method=f"bootstrap over problems, percentile; reflection by {reflection.VERSION}",
            n_queries=len(problems),
            n_samples=settings["samples"],
            temperature=settings["temperature"],
            again=again,
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
