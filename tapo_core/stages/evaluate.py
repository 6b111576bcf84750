"""Held-out evaluation of one policy version: pass@1 with its interval, and every rollout it rests on."""

from tapo_core.ids import deterministic_id
from tapo_core.records import Evaluation, Rollout, RolloutKind
from tapo_core.session import Session
from tapo_core.stages.sample import sample_rollouts
from tapo_core.stages.verify import verify_rollouts
from tapo_core.statistics import pass_at_1
from tapo_core.store import StageCommit

STAGE = "evaluate"


def evaluate(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """Sample and verify the held-out queries with the policy that came out of `iteration`.

    The seeds are the same at every iteration, so that two policy versions differ by their weights alone. Rollouts with an
    unknown verdict are left out of pass@1 and counted in the manifest.

    Raises:
        TransientError: the engine died. PolicyMismatchError: it does not hold the published policy.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    settings = session.config.evaluation
    policy = session.policy_version(iteration)
    held_out = sorted((q for q in session.queries.values() if q.split == "held_out"), key=lambda q: q.query_id)
    records = sample_rollouts(
        session,
        policy,
        held_out[: settings.queries],
        RolloutKind.EVALUATION,
        iteration,
        settings.samples,
        settings.temperature,
        seed_iteration=0,
    )
    rollouts = [record for record in records if isinstance(record, Rollout)]
    verdicts = verify_rollouts(session, rollouts)
    rewards: dict[str, list[float]] = {}
    n_unknown = 0
    for rollout, verdict in zip(rollouts, verdicts, strict=True):
        if verdict.reward is None:
            n_unknown += 1
        else:
            rewards.setdefault(rollout.query_id, []).append(verdict.reward)
    manifest: dict[str, float | int | str] = {"n_rollouts": len(rollouts), "n_unknown": n_unknown}
    records += verdicts
    if rewards:
        estimate = pass_at_1(
            list(rewards.values()), settings.confidence, settings.resamples, session.seed(0, "bootstrap")
        )
        records.append(
            Evaluation(
                evaluation_id=deterministic_id("evaluation", policy=policy.policy_version_id, dataset="held_out"),
                run_id=session.run_id,
                iteration=iteration,
                policy_version_id=policy.policy_version_id,
                dataset="held_out",
                metric="pass@1",
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                confidence=settings.confidence,
                interval_method="bootstrap over problems, percentile",
                n_queries=len(rewards),
                n_samples=settings.samples,
            )
        )
        manifest |= {"pass@1": estimate.value, "low": estimate.low, "high": estimate.high}
    return session.commit(STAGE, iteration, input_digest, manifest, records)
