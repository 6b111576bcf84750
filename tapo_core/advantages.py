"""Decoupled advantage estimation (DAE).

    A_orig = (r     - mean(G_orig)) / (std(G_orig) + eps)
    A_ref  = (r_ref - mean(G_ref))  / (std(G_ref)  + eps)

Original rollouts are normalised within their query's group, constructed trajectories apart from them: merging the two would
raise the group's mean and punish the originals ("advantage contamination"). std is the sample standard deviation (n - 1), as in
OpenRLHF's group normalisation, and at least `std_floor`. A group without variance, or of one, has advantage 0 throughout.

What G_ref is, is unstated in the paper; `constructed_scope` says it: the query's constructions, the batch's, or, for
"original", the mean and std of the query's original group. "merged" is the ablation that shows the contamination: one group
for both kinds of a query's trajectories, so that good constructions lower the advantages of the originals. "raw" leaves the
rewards as they are (mean 0, std 1, each a group of its own).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.config import AdvantageConfig
from tapo_core.records import AdvantageGroup


@dataclass(frozen=True, slots=True)
class Rewarded:
    """One trajectory with its reward."""

    subject_id: str
    query_id: str
    reward: float


@dataclass(frozen=True, slots=True)
class Normalised:
    """One trajectory's advantage, with all that it was computed from."""

    subject_id: str
    query_id: str
    group: AdvantageGroup
    scope: str
    group_size: int
    reward: float
    mean: float
    std: float
    value: float


def mean_and_std(rewards: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1; 0 for a single value). `math.fsum` makes them independent of order.

    Raises:
        ValueError: no rewards.
    """
    if not rewards:
        raise ValueError("a group needs at least one reward")
    mean = math.fsum(rewards) / len(rewards)
    if len(rewards) < 2:
        return mean, 0.0
    return mean, math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))


def decoupled_advantages(
    original: Sequence[Rewarded], constructed: Sequence[Rewarded], config: AdvantageConfig
) -> list[Normalised]:
    """Advantages of an iteration's batch, originals first, in the given order.

    `original` must hold the whole group of every query (all rollouts with a known verdict).
    """
    scope = config.constructed_scope
    if scope == "merged":
        original_stats = constructed_stats = _stats_by_query([*original, *constructed])
    else:
        original_stats, constructed_stats = _stats_by_query(original), _stats_by_query(constructed)
    whole = mean_and_std([c.reward for c in constructed]) if constructed else (0.0, 0.0)
    result = []
    for item in original:
        mean, std, size = original_stats[item.query_id]
        name = "merged" if scope == "merged" else "query"
        result.append(_normalise(item, AdvantageGroup.ORIGINAL, name, size, mean, std, config))
    for item in constructed:
        if scope == "raw":
            mean, std, size = 0.0, 1.0, 1
        elif scope == "batch":
            mean, std, size = *whole, len(constructed)
        elif scope == "original":
            mean, std, size = original_stats[item.query_id]
        else:
            mean, std, size = constructed_stats[item.query_id]
        result.append(_normalise(item, AdvantageGroup.CONSTRUCTED, scope, size, mean, std, config))
    return result


def _stats_by_query(items: Sequence[Rewarded]) -> dict[str, tuple[float, float, int]]:
    rewards: dict[str, list[float]] = {}
    for item in items:
        rewards.setdefault(item.query_id, []).append(item.reward)
    return {query: (*mean_and_std(values), len(values)) for query, values in rewards.items()}


def _normalise(
    item: Rewarded, group: AdvantageGroup, scope: str, size: int, mean: float, std: float, config: AdvantageConfig
) -> Normalised:
    floored = max(std, config.std_floor)
    if scope == "raw":
        value = item.reward
    elif floored == 0.0:
        # Not left to eps: rounding in the mean of equal rewards, divided by eps, would be an advantage made of noise.
        value = 0.0
    else:
        value = (item.reward - mean) / (floored + config.eps)
    return Normalised(item.subject_id, item.query_id, group, scope, size, item.reward, mean, std, value)
