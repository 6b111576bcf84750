"""An iteration's groups, read back from the store: each query's rollouts with their verdicts."""

import random
from dataclasses import dataclass

from tapo_core.difficulty import GroupCounts, Reason, draw_candidates, judge_query
from tapo_core.records import Correction, Rollout, RolloutKind, SubjectKind, Verification, VerificationOutcome
from tapo_core.session import Session
from tapo_core.stages.verify import first_verdicts


@dataclass(frozen=True, slots=True)
class Group:
    """The K rollouts of one query in one iteration, by k, and what the verifier said of them."""

    query_id: str
    rollouts_K: list[Rollout]
    verdicts_K: list[Verification]

    @property
    def counts(self) -> GroupCounts:
        """|P|, |N| and unknown."""
        return GroupCounts.of([verdict.outcome for verdict in self.verdicts_K])

    def with_outcome(self, *outcomes: VerificationOutcome) -> list[Rollout]:
        """The rollouts with one of these verdicts."""
        pairs = zip(self.rollouts_K, self.verdicts_K, strict=True)
        return [rollout for rollout, verdict in pairs if verdict.outcome in outcomes]

    @property
    def correct(self) -> list[Rollout]:
        """P."""
        return self.with_outcome(VerificationOutcome.CORRECT)

    @property
    def wrong(self) -> list[Rollout]:
        """N: wrong answers and missing ones."""
        return self.with_outcome(VerificationOutcome.WRONG, VerificationOutcome.NO_ANSWER)


def load_groups(session: Session, iteration: int) -> list[Group]:
    """All groups of an iteration, by query id, but those of redacted queries."""
    redacted = session.redacted
    verdicts = {verdict.subject_id: verdict for verdict in first_verdicts(session, iteration, SubjectKind.ROLLOUT)}
    by_query: dict[str, list[Rollout]] = {}
    for rollout in session.load(Rollout, iteration, kind=RolloutKind.TRAINING):
        if rollout.query_id in redacted:
            continue
        by_query.setdefault(rollout.query_id, []).append(rollout)
    groups = []
    for query_id, rollouts in sorted(by_query.items()):
        rollouts.sort(key=lambda rollout: rollout.k)
        groups.append(Group(query_id, rollouts, [verdicts[rollout.rollout_id] for rollout in rollouts]))
    return groups


def redacted_subjects(session: Session, iteration: int) -> list[tuple[SubjectKind, str]]:
    """The redacted queries that an iteration has rollouts of, these rollouts, and what was constructed from them."""
    redacted = session.redacted
    if not redacted:
        return []
    rollouts = [r for r in session.load(Rollout, iteration, kind=RolloutKind.TRAINING) if r.query_id in redacted]
    corrections = [c for c in session.load(Correction, iteration) if c.query_id in redacted]
    return [
        *((SubjectKind.QUERY, query_id) for query_id in sorted({rollout.query_id for rollout in rollouts})),
        *((SubjectKind.ROLLOUT, rollout.rollout_id) for rollout in rollouts),
        *((SubjectKind.CONSTRUCTED, correction.correction_id) for correction in corrections),
    ]


def judge_group(session: Session, group: Group) -> Reason:
    """Whether constructions are made for a group's query."""
    if session.config.method == "grpo":
        return Reason.CONSTRUCTIONS_OFF
    return judge_query(group.counts, session.config.filter)


def candidates(session: Session, iteration: int, group: Group) -> list[Rollout]:
    """The wrong rollouts of a group that are to be corrected: none unless its query is eligible."""
    if judge_group(session, group) is not Reason.ELIGIBLE:
        return []
    wrong = {rollout.rollout_id: rollout for rollout in group.wrong}
    seed = session.seed(iteration, "draw_candidates", group.query_id)
    return [wrong[rollout_id] for rollout_id in draw_candidates(list(wrong), session.config.filter, seed)]


def draw_reference(session: Session, iteration: int, group: Group, wrong: Rollout) -> Rollout:
    """The correct sibling that guides a wrong rollout's correction, drawn at random (paper: construction)."""
    seed = session.seed(iteration, "draw_reference", group.query_id, wrong.k)
    return random.Random(seed).choice(group.correct)
