"""Stage 5: decide what enters the batch, and write down why, for every query, rollout and construction."""

from collections import Counter

from tapo_core.difficulty import GroupCounts, Reason, judge_construction, judge_rollouts
from tapo_core.ids import deterministic_id
from tapo_core.records import Correction, SelectionDecision, SubjectKind
from tapo_core.session import Session
from tapo_core.stages.groups import judge_group, load_groups, redacted_subjects
from tapo_core.stages.verify import first_verdicts
from tapo_core.store import StageCommit

STAGE = "filter_by_difficulty"

_SELECTED = (Reason.ELIGIBLE, Reason.ORIGINAL_GROUP, Reason.CONSTRUCTED_GROUP)


def filter_by_difficulty(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """A `SelectionDecision` for every query, rollout and construction of the iteration."""
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    config = session.config.filter
    decisions: list[SelectionDecision] = []

    def decide(kind: SubjectKind, subject_id: str, reason: Reason, counts: GroupCounts | None) -> None:
        decisions.append(
            SelectionDecision(
                decision_id=deterministic_id(
                    "decision", run=session.run_id, iteration=iteration, subject_kind=kind, subject=subject_id
                ),
                run_id=session.run_id,
                iteration=iteration,
                subject_kind=kind,
                subject_id=subject_id,
                selected=reason in _SELECTED,
                reason=reason,
                n_correct=counts.n_correct if counts else None,
                n_wrong=counts.n_wrong if counts else None,
                n_unknown=counts.n_unknown if counts else None,
            )
        )

    verdicts = {
        verdict.subject_id: verdict.outcome for verdict in first_verdicts(session, iteration, SubjectKind.CONSTRUCTED)
    }
    corrections: dict[str, list[Correction]] = {}
    for correction in session.load(Correction, iteration):
        corrections.setdefault(correction.query_id, []).append(correction)
    for group in load_groups(session, iteration):
        counts, reason = group.counts, judge_group(session, group)
        decide(SubjectKind.QUERY, group.query_id, reason, counts)
        outcomes = {verdict.subject_id: verdict.outcome for verdict in group.verdicts_K}
        for rollout_id, judged in judge_rollouts(outcomes, reason, config).items():
            decide(SubjectKind.ROLLOUT, rollout_id, judged, counts)
        for correction in corrections.get(group.query_id, []):
            outcome = verdicts.get(correction.correction_id)
            judged = judge_construction(correction.parse_outcome, outcome, config)
            decide(SubjectKind.CONSTRUCTED, correction.correction_id, judged, counts)
    for kind, subject_id in redacted_subjects(session, iteration):
        decide(kind, subject_id, Reason.REDACTED, None)
    tally = Counter(f"{decision.subject_kind}/{decision.reason}" for decision in decisions)
    return session.commit(STAGE, iteration, input_digest, dict(sorted(tally.items())), decisions)
