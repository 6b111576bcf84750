"""Stage 2: verify every rollout of the iteration."""

from collections import Counter
from collections.abc import Sequence

from tapo_core.ids import deterministic_id
from tapo_core.records import Rollout, RolloutKind, SubjectKind, Verification
from tapo_core.session import Session
from tapo_core.store import StageCommit
from tapo_core.verification import VERIFIER, VERIFIER_VERSION, Verdict
from tapo_core.verification import verify as judge

STAGE = "verify"


def verify(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """A verdict for every training rollout but those of redacted queries. Never fails because of what a model wrote."""
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    redacted = session.redacted
    rollouts = [r for r in session.load(Rollout, iteration, kind=RolloutKind.TRAINING) if r.query_id not in redacted]
    verdicts = verify_rollouts(session, rollouts)
    counts = Counter(verdict.outcome for verdict in verdicts)
    return session.commit(STAGE, iteration, input_digest, {str(k): n for k, n in sorted(counts.items())}, verdicts)


def verify_rollouts(session: Session, rollouts: Sequence[Rollout]) -> list[Verification]:
    """A `Verification` of every rollout, in order."""
    return [
        verification(
            session, rollout.iteration, SubjectKind.ROLLOUT, rollout.rollout_id, rollout.text, rollout.query_id
        )
        for rollout in rollouts
    ]


def verification(
    session: Session, iteration: int, kind: SubjectKind, subject_id: str, text: str, query_id: str
) -> Verification:
    """Judge one text against its query's gold answer."""
    gold = session.queries[query_id].gold
    verdict: Verdict = judge(text, gold)
    return Verification(
        verification_id=deterministic_id(
            "verification", iteration=iteration, subject=subject_id, verifier=VERIFIER, version=VERIFIER_VERSION
        ),
        run_id=session.run_id,
        iteration=iteration,
        subject_kind=kind,
        subject_id=subject_id,
        outcome=verdict.outcome,
        reward=verdict.reward,
        extracted_answer=verdict.extracted_answer,
        gold=gold,
        tier=verdict.tier,
        reason=verdict.reason,
        verifier=VERIFIER,
        verifier_version=VERIFIER_VERSION,
    )
