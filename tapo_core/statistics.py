"""pass@1 with a confidence interval that clusters by problem."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate in [0, 1] with its interval."""

    value: float
    low: float
    high: float


def pass_at_1(rewards_Q_n: Sequence[Sequence[float]], confidence: float, resamples: int, seed: int) -> Estimate:
    """Mean of per-problem means, with a percentile bootstrap interval.

    Samples of one problem are not independent, so problems (with all their samples) are what is resampled. Problems may have
    different numbers of samples; each problem counts once.

    Raises:
        ValueError: no problem, or a problem without samples.
    """
    if not rewards_Q_n or any(not rewards for rewards in rewards_Q_n):
        raise ValueError("pass@1 needs at least one problem, and at least one sample of each")
    means_Q = np.array([float(np.mean(rewards)) for rewards in rewards_Q_n])
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(means_Q), size=(resamples, len(means_Q)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means_Q[draws].mean(axis=1), [tail, 1.0 - tail])
    return Estimate(float(means_Q.mean()), float(low), float(high))
