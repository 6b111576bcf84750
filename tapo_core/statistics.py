"""Evaluation metrics with confidence intervals that cluster by problem, and the comparison of two policies.

Samples of one problem are not independent, so problems (with all their samples) are what is resampled. Every metric is a ratio of
two sums over problems; for most the denominator is 1 a problem, so that the metric is a mean over problems and each counts once.

| metric | what it is |
|---|---|
| pass@1 | share of correct samples |
| pass@k | probability that one of k samples is correct, unbiased: 1 - C(n-c, k) / C(n, k) |
| cons@k | share of problems whose most frequent answer among the first k samples is correct; a tie counts by its share |
| dsr | direct solution rate: share of the *correct* samples that do not reflect |
| err | effective reflection rate: P(correct given that the sample reflects) |
| dsr@all, err@all | the second reading: share of *all* samples that are correct without, and with, reflection (sum: pass@1) |
| reflection_rate, mean_tokens | share of samples that reflect, response length |

The paper does not define DSR and ERR. `dsr` and `err` are the only reading found that fits its six cells.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Sampled:
    """One verified sample of a problem."""

    correct: bool
    answer: str | None  #: canonical form, so that equal answers are equal texts; None when there is none
    reflects: bool
    n_tokens: int


Problem = Sequence[Sampled]


def estimates(samples_Q: Sequence[Problem], confidence: float, resamples: int, seed: int) -> dict[str, Estimate]:
    """Every metric of a set of problems, by name.

    A metric that has nothing to stand on (ERR when nothing reflects) is left out. pass@k is given for powers of two up to
    the least number of samples a problem has, cons@k for that number.

    Raises:
        ValueError: no problem, or a problem without samples.
    """
    if not samples_Q or any(not samples for samples in samples_Q):
        raise ValueError("metrics need at least one problem, and at least one sample of each")
    least = min(len(samples) for samples in samples_Q)
    powers = [2**i for i in range(1, least.bit_length()) if 2**i <= least]
    parts: dict[str, Callable[[Problem], tuple[float, float]]] = {
        "pass@1": lambda s: (_share(s, lambda x: x.correct), 1.0),
        **{f"pass@{k}": lambda s, k=k: (pass_at_k(len(s), sum(x.correct for x in s), k), 1.0) for k in powers},  # type: ignore[misc]
        f"cons@{least}": lambda s: (consensus(s[:least]), 1.0),
        "dsr": lambda s: (sum(x.correct and not x.reflects for x in s), sum(x.correct for x in s)),
        "err": lambda s: (sum(x.correct and x.reflects for x in s), sum(x.reflects for x in s)),
        "dsr@all": lambda s: (_share(s, lambda x: x.correct and not x.reflects), 1.0),
        "err@all": lambda s: (_share(s, lambda x: x.correct and x.reflects), 1.0),
        "reflection_rate": lambda s: (_share(s, lambda x: x.reflects), 1.0),
        "mean_tokens": lambda s: (sum(x.n_tokens for x in s) / len(s), 1.0),
    }
    draws = np.random.default_rng(seed).integers(0, len(samples_Q), size=(resamples, len(samples_Q)))
    result = {}
    for name, part in parts.items():
        numerators, denominators = np.array([part(samples) for samples in samples_Q], dtype=float).T
        if denominators.sum() > 0:
            result[name] = _ratio(numerators, denominators, draws, confidence)
    return result


def _share(samples: Problem, holds: Callable[[Sampled], bool]) -> float:
    return sum(holds(sample) for sample in samples) / len(samples)


def _ratio(
    numerators_Q: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    denominators_Q: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    draws: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    confidence: float,
) -> Estimate:
    """Ratio of sums with a percentile interval; resamples whose denominator is 0 say nothing and are left out."""
    above, below = numerators_Q[draws].sum(axis=1), denominators_Q[draws].sum(axis=1)
    usable = below > 0
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(above[usable] / below[usable], [tail, 1.0 - tail])
    return Estimate(float(numerators_Q.sum() / denominators_Q.sum()), float(low), float(high))


def pass_at_k(n: int, n_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is correct, from n samples.

    Raises:
        ValueError: k is not in 1..n.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs k in 1..{n}")
    return 1.0 - math.comb(n - n_correct, k) / math.comb(n, k)


def consensus(samples: Problem) -> float:
    """1 if the most frequent answer is correct, 0 if not; among several most frequent ones, the share that is correct."""
    votes: dict[str, list[bool]] = {}
    for sample in samples:
        if sample.answer is not None:
            votes.setdefault(sample.answer, []).append(sample.correct)
    if not votes:
        return 0.0
    most = max(len(group) for group in votes.values())
    winners = [group[0] for group in votes.values() if len(group) == most]
    return sum(winners) / len(winners)


def wilson(n_correct: int, n: int, confidence: float) -> Estimate:
    """A share with Wilson's interval, as if the samples were independent.

    Raises:
        ValueError: there is no sample.
    """
    if n < 1:
        raise ValueError("a share needs at least one sample")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = n_correct / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True)
class Comparison:
    """pass@1 of one policy less that of another, on the problems that both have."""

    difference: Estimate
    p_value: float  #: two-sided, from random flips of the signs of the problems' differences
    n_problems: int


def compare(
    first_Q: Sequence[float], second_Q: Sequence[float], confidence: float, resamples: int, seed: int
) -> Comparison:
    """Paired comparison of per-problem rates, problem by problem.

    The interval is a bootstrap over problems. The p-value is that of the sign-flip permutation test: how often chance alone, if
    the two policies were the same, makes a mean difference at least as large. It is never below 1 / (resamples + 1).

    Raises:
        ValueError: no problems, or different numbers of them.
    """
    if not first_Q or len(first_Q) != len(second_Q):
        raise ValueError(f"a paired comparison needs the same problems twice, not {len(first_Q)} and {len(second_Q)}")
    differences_Q = np.array(first_Q, dtype=float) - np.array(second_Q, dtype=float)
    n = len(differences_Q)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, n, size=(resamples, n))
    estimate = _ratio(differences_Q, np.ones(n), draws, confidence)
    signs = generator.choice((-1.0, 1.0), size=(resamples, n))
    # A hair of slack: the same sum in another order must count as "as large".
    as_large = np.abs((signs * differences_Q).sum(axis=1)) >= abs(differences_Q.sum()) - 1e-9
    return Comparison(estimate, float((as_large.sum() + 1) / (resamples + 1)), n)
