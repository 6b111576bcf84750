"""Difficulty: the zone of proximal development (ZPD) of a training set, candidate selection (DCS), and who enters the batch.

A query is eligible for constructions iff |P| >= n_pos and |N| >= n_neg, with P its correct and N its wrong rollouts (a rollout
without an answer is wrong; one with an unknown verdict is in neither). Mastered and beyond-reach queries drop out, so that a
curriculum emerges by itself. (Paper: n_pos = 2, n_neg = 4, m_max = 4.)
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tapo_core.config import FilterConfig, ZpdConfig
from tapo_core.records import ParseOutcome, VerificationOutcome


class Reason(StrEnum):
    """Why something was selected for the batch, or not."""

    REDACTED = "redacted"  #: the query's text was redacted after its rollouts were sampled
    # queries
    ELIGIBLE = "eligible"
    MASTERED = "mastered"  #: too few wrong rollouts
    BEYOND_REACH = "beyond_reach"  #: too few correct rollouts
    TOO_FEW_VERDICTS = "too_few_verdicts"  #: too few of both, because verdicts are unknown
    CONSTRUCTIONS_OFF = "constructions_off"  #: method = "grpo"
    # rollouts
    ORIGINAL_GROUP = "original_group"  #: selected
    NO_VARIANCE = "no_variance"  #: all known rewards of its group are equal: its advantage is exactly zero
    UNKNOWN_VERDICT = "unknown_verdict"
    QUERY_NOT_ELIGIBLE = "query_not_eligible"  #: only with filter.scope = "batch"
    # constructed trajectories
    CONSTRUCTED_GROUP = "constructed_group"  #: selected
    NOT_PARSED = "not_parsed"
    NOT_CORRECT = "not_correct"  #: only with filter.require_correct
    # queries of a training set
    ZPD_INSIDE = "zpd_inside"  #: selected
    ZPD_TOO_HARD = "zpd_too_hard"
    ZPD_TOO_EASY = "zpd_too_easy"
    ZPD_UNKNOWN = "zpd_unknown"  #: no verdict is known


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """|P|, |N| and the number of unknown verdicts of one query's group."""

    n_correct: int
    n_wrong: int
    n_unknown: int

    @classmethod
    def of(cls, outcomes: Sequence[VerificationOutcome]) -> "GroupCounts":
        """Count a group's verdicts."""
        correct = sum(o is VerificationOutcome.CORRECT for o in outcomes)
        unknown = sum(o is VerificationOutcome.UNKNOWN for o in outcomes)
        return cls(correct, len(outcomes) - correct - unknown, unknown)

    @property
    def accuracy(self) -> float | None:
        """Share of correct ones among the known verdicts; None if none is known."""
        known = self.n_correct + self.n_wrong
        return self.n_correct / known if known else None


def judge_query(counts: GroupCounts, config: FilterConfig) -> Reason:
    """`Reason.ELIGIBLE`, or why not."""
    few_correct, few_wrong = counts.n_correct < config.n_pos, counts.n_wrong < config.n_neg
    if few_correct and few_wrong:
        return Reason.TOO_FEW_VERDICTS
    if few_correct:
        return Reason.BEYOND_REACH
    return Reason.MASTERED if few_wrong else Reason.ELIGIBLE


def judge_zpd(counts: GroupCounts, config: ZpdConfig) -> Reason:
    """`Reason.ZPD_INSIDE`, or why not, for a query of a training set. Both bounds belong to the zone.

    Unknown verdicts shrink the sample; they are not wrong.
    """
    accuracy = counts.accuracy
    if accuracy is None:
        return Reason.ZPD_UNKNOWN
    if accuracy < config.low:
        return Reason.ZPD_TOO_HARD
    return Reason.ZPD_TOO_EASY if accuracy > config.high else Reason.ZPD_INSIDE


def draw_candidates(wrong_ids: Sequence[str], config: FilterConfig, seed: int) -> list[str]:
    """At most m_max of an eligible query's wrong rollouts, drawn without replacement, in their given order."""
    if len(wrong_ids) <= config.m_max:
        return list(wrong_ids)
    drawn = set(random.Random(seed).sample(range(len(wrong_ids)), config.m_max))
    return [wrong for index, wrong in enumerate(wrong_ids) if index in drawn]


def judge_rollouts(
    outcomes: Mapping[str, VerificationOutcome], query: Reason, config: FilterConfig
) -> dict[str, Reason]:
    """Rollout id -> `Reason.ORIGINAL_GROUP`, or why not, for one query's group."""
    known = [o is VerificationOutcome.CORRECT for o in outcomes.values() if o is not VerificationOutcome.UNKNOWN]
    if config.scope == "batch" and query not in (Reason.ELIGIBLE, Reason.CONSTRUCTIONS_OFF):
        others = Reason.QUERY_NOT_ELIGIBLE
    elif len(set(known)) < 2:
        others = Reason.NO_VARIANCE
    else:
        others = Reason.ORIGINAL_GROUP
    return {
        rollout: Reason.UNKNOWN_VERDICT if outcome is VerificationOutcome.UNKNOWN else others
        for rollout, outcome in outcomes.items()
    }


def judge_construction(parse: ParseOutcome, outcome: VerificationOutcome | None, config: FilterConfig) -> Reason:
    """`Reason.CONSTRUCTED_GROUP`, or why not, for one construction. `outcome` is None exactly when it did not parse."""
    if parse is not ParseOutcome.PARSED or outcome is None:
        return Reason.NOT_PARSED
    if outcome is VerificationOutcome.UNKNOWN:
        return Reason.UNKNOWN_VERDICT
    if config.require_correct and outcome is not VerificationOutcome.CORRECT:
        return Reason.NOT_CORRECT
    return Reason.CONSTRUCTED_GROUP
