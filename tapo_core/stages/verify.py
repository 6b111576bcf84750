"""Stage 2: verify every rollout of the iteration."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.ids import deterministic_id, digest
from tapo_core.records import (
    Correction,
    FinishReason,
    Rollout,
    RolloutKind,
    SubjectKind,
    Verification,
    VerificationOutcome,
)
from tapo_core.session import Session
from tapo_core.store import StageCommit
from tapo_core.verification.base import Question

STAGE = "verify"
AGAIN = "verify-again"  #: begins the names of the stages of `tapo verify --again`


@dataclass(frozen=True, slots=True)
class Written:
    """A text to judge."""

    kind: SubjectKind
    subject_id: str
    query_id: str
    text: str
    finished: bool = True  #: False: cut off at its maximum of new tokens

    @classmethod
    def of(cls, rollout: Rollout) -> "Written":
        """A rollout's text."""
        finished = rollout.finish_reason is not FinishReason.LENGTH
        return cls(SubjectKind.ROLLOUT, rollout.rollout_id, rollout.query_id, rollout.text, finished)


def verify(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """A verdict for every training rollout but those of redacted queries. Never fails because of what a model wrote.

    Raises:
        TransientError: the verifier cannot work now.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    redacted = session.redacted
    rollouts = [r for r in session.load(Rollout, iteration, kind=RolloutKind.TRAINING) if r.query_id not in redacted]
    verdicts = verify_rollouts(session, rollouts)
    return session.commit(STAGE, iteration, input_digest, counted(verdicts), verdicts)


def counted(verdicts: Sequence[Verification]) -> dict[str, int]:
    """How many verdicts of each outcome: a manifest, or a part of one."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {str(outcome): count for outcome, count in sorted(counts.items())}


def verify_rollouts(session: Session, rollouts: Sequence[Rollout]) -> list[Verification]:
    """A `Verification` of every rollout, in order."""
    if not rollouts:
        return []
    return verify_texts(session, rollouts[0].iteration, [Written.of(rollout) for rollout in rollouts])


def verify_texts(
    session: Session, iteration: int, texts: Sequence[Written], again: int | None = None
) -> list[Verification]:
    """A `Verification` of every text, in order. More unknown ones than verifier.alarm_unknown_share are told of."""
    queries = [session.queries[written.query_id] for written in texts]
    verifier = session.verifier
    session.release_store()  # judging can take minutes
    verdicts = verifier.verify(
        [Question(q.text, q.gold, written.text, written.finished) for q, written in zip(queries, texts, strict=True)]
    )
    made = [
        Verification(
            verification_id=deterministic_id(
                "verification",
                iteration=iteration,
                subject=written.subject_id,
                verifier=verifier.name,
                version=verifier.version,
                **({} if again is None else {"again": again}),
            ),
            run_id=session.run_id,
            iteration=iteration,
            subject_kind=written.kind,
            subject_id=written.subject_id,
            outcome=verdict.outcome,
            reward=verdict.reward,
            extracted_answer=verdict.extracted_answer,
            gold=query.gold,
            tier=verdict.tier,
            reason=verdict.reason,
            verifier=verifier.name,
            verifier_version=verifier.version,
            milliseconds=verdict.milliseconds,
            again=again,
        )
        for written, query, verdict in zip(texts, queries, verdicts, strict=True)
    ]
    _tell_of_unknown(session, iteration, made)
    return made


def _tell_of_unknown(session: Session, iteration: int, verdicts: Sequence[Verification]) -> None:
    reasons = Counter(v.reason for v in verdicts if v.outcome is VerificationOutcome.UNKNOWN)
    most = session.config.verifier.alarm_unknown_share
    if verdicts and reasons.total() / len(verdicts) > most:
        reason, count = reasons.most_common(1)[0]
        session.reporter.note(
            f"ALARM: iteration {iteration}: {reasons.total()} of {len(verdicts)} verdicts are unknown, more than "
            f"verifier.alarm_unknown_share = {most:g}; these texts give no reward. Most often ({count}): {reason}. "
            "The view unknown_verdict has them; tapo verify --again judges them again"
        )


def first_verdicts(session: Session, iteration: int, kind: SubjectKind) -> list[Verification]:
    """The stages' own verdicts of an iteration: what training goes by, whatever was found out later."""
    return [v for v in session.load(Verification, iteration, subject_kind=kind) if v.again is None]


def verify_again(session: Session, iteration: int) -> StageCommit | None:
    """Judge an iteration's texts again whose newest verdict is unknown. The new verdicts are new rows beside the old ones.

    What was trained on stays as it was. None: no verdict is unknown.
    """
    newest: dict[str, Verification] = {}
    for row in sorted(session.load(Verification, iteration), key=lambda row: row.again or 0):
        newest[row.subject_id] = row
    unknown = {key for key, row in newest.items() if row.outcome is VerificationOutcome.UNKNOWN}
    redacted = session.redacted
    texts = [Written.of(r) for r in session.load(Rollout, iteration) if r.rollout_id in unknown]
    texts += [
        Written(SubjectKind.CONSTRUCTED, row.correction_id, row.query_id, row.constructed_text)
        for row in session.load(Correction, iteration)
        if row.correction_id in unknown and row.constructed_text is not None
    ]
    texts = [written for written in texts if written.query_id not in redacted]
    if not texts:
        return None
    number = 1 + max(row.again or 0 for row in newest.values())
    verdicts = verify_texts(session, iteration, texts, number)
    input_digest = digest(sorted(written.subject_id for written in texts))
    return session.commit(f"{AGAIN}-{number}", iteration, input_digest, counted(verdicts), verdicts)
