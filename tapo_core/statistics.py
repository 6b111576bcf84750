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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


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


@dataclass(frozen=True, slots=True)
class Counts:
    """What most metrics need to know of one problem's samples."""

    n: int
    n_correct: int
    n_reflecting: int
    n_correct_reflecting: int


def count(samples: Problem) -> Counts:
    """The counts of one problem's samples."""
    return Counts(
        len(samples),
        sum(sample.correct for sample in samples),
        sum(sample.reflects for sample in samples),
        sum(sample.correct and sample.reflects for sample in samples),
    )


def part(metric: str, counts: Counts) -> tuple[float, float]:
    """Numerator and denominator that one problem brings to a metric of the table above.

    Raises:
        ValueError: the metric needs more than counts, does not exist, or its k is more than the samples.
    """
    n, correct, both = counts.n, counts.n_correct, counts.n_correct_reflecting
    match metric.partition("@"):
        case "pass", "@", k if k.isdecimal():
            return pass_at_k(n, correct, int(k)), 1.0
        case "dsr", "", _:
            return correct - both, correct
        case "err", "", _:
            return both, counts.n_reflecting
        case "dsr", "@", "all":
            return (correct - both) / n, 1.0
        case "err", "@", "all":
            return both / n, 1.0
        case "reflection_rate", "", _:
            return counts.n_reflecting / n, 1.0
    raise ValueError(f"{metric} is no metric of counts")


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
    counted = ["pass@1", *(f"pass@{k}" for k in powers), "dsr", "err", "dsr@all", "err@all", "reflection_rate"]
    parts = {metric: [part(metric, count(samples)) for samples in samples_Q] for metric in counted}
    parts[f"cons@{least}"] = [(consensus(samples[:least]), 1.0) for samples in samples_Q]
    parts["mean_tokens"] = [(sum(x.n_tokens for x in samples) / len(samples), 1.0) for samples in samples_Q]
    draws = np.random.default_rng(seed).integers(0, len(samples_Q), size=(resamples, len(samples_Q)))
    result = {}
    for name, parts_Q in parts.items():
        numerators, denominators = np.array(parts_Q, dtype=float).T
        if denominators.sum() > 0:
            result[name] = _ratio(numerators, denominators, draws, confidence)
    return result


def _ratio(
    numerators_Q: Floats,
    denominators_Q: Floats,
    draws: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    confidence: float,
) -> Estimate:
    """Ratio of sums with a percentile interval; resamples whose denominator is 0 say nothing and are left out."""
    resampled = _quotients(numerators_Q[draws].sum(axis=1), denominators_Q[draws].sum(axis=1))
    return _with_interval(float(numerators_Q.sum() / denominators_Q.sum()), resampled, confidence)


def _quotients(above: Floats, below: Floats) -> Floats:
    """Element by element; NaN where the denominator is 0."""
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found


def _with_interval(value: float, resampled: Floats, confidence: float) -> Estimate:
    """Percentile interval of resampled values, those that are NaN left out."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(resampled[~np.isnan(resampled)], [tail, 1.0 - tail])
    return Estimate(value, float(low), float(high))


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


@dataclass(frozen=True, slots=True)
class Crossed:
    """One metric of a method that was trained once with each of several seeds, each policy evaluated on the same problems.

    A row for each seed, a column for each problem (see `part`).
    """

    numerators_SQ: Floats
    denominators_SQ: Floats

    @property
    def by_seed(self) -> list[float]:
        """The metric of each seed's policy; NaN where it has nothing to stand on."""
        return [float(x) for x in _quotients(self.numerators_SQ.sum(axis=1), self.denominators_SQ.sum(axis=1))]

    @property
    def value(self) -> float:
        """The metric of all together; NaN where it has nothing to stand on."""
        return float(_quotients(self.numerators_SQ.sum(), self.denominators_SQ.sum()))

    def resampled(self, seeds: Floats, problems: Floats) -> Floats:
        """The metric of each resample; how often each has every seed, and every problem."""
        above, below = (((seeds @ x) * problems).sum(axis=1) for x in (self.numerators_SQ, self.denominators_SQ))
        return _quotients(above, below)


def crossed_estimate(metric: Crossed, confidence: float, resamples: int, seed: int) -> Estimate | None:
    """A metric with an interval from resampling seeds and problems, each with replacement and independently of the other.

    With one seed, problems alone are resampled: the interval then says nothing about training again. None if the metric has
    nothing to stand on.
    """
    if not metric.denominators_SQ.sum() > 0:
        return None
    draws = _crossed_draws(metric.numerators_SQ.shape, resamples, seed)
    return _with_interval(metric.value, metric.resampled(*draws), confidence)


@lru_cache(maxsize=8)
def _crossed_draws(shape: tuple[int, ...], resamples: int, seed: int) -> tuple[Floats, Floats]:
    """How often each resample has every seed, and every problem. Remembered: the tables of a study ask for few shapes often."""
    generator = np.random.default_rng(seed)
    seeds, problems = (generator.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(float) for n in shape)
    return seeds, problems


@dataclass(frozen=True, slots=True)
class CrossedComparison:
    """A metric of one method less that of another, both trained with the same seeds and evaluated on the same problems."""

    difference: Estimate
    p_value: float  #: two-sided, see `compare_crossed`
    by_seed: list[float]  #: NaN where a policy's metric has nothing to stand on
    n_problems: int


def compare_crossed(
    first: Crossed, second: Crossed, confidence: float, resamples: int, seed: int
) -> CrossedComparison | None:
    """Paired comparison over seeds and problems; None if a metric has nothing to stand on.

    The interval is a bootstrap over seeds and problems, both methods on the same resample. The p-value is that of a permutation
    test: if the methods were the same, which of a seed's two policies is called the first would be chance, so all 2^S
    exchanges are as likely as what was found (beyond `resamples` of them, as many drawn ones). It is never below 2 / 2^S: 0.06
    for five seeds. Policies of one seed share all of its training's luck, hence they are not exchanged problem by problem,
    except with one seed, where the test is about these two policies alone.

    Raises:
        ValueError: different numbers of seeds or problems.
    """
    if first.numerators_SQ.shape != second.numerators_SQ.shape or not first.numerators_SQ.size:
        raise ValueError(f"not the same seeds and problems: {first.numerators_SQ.shape}, {second.numerators_SQ.shape}")
    if np.isnan(first.value) or np.isnan(second.value):
        return None
    draws = _crossed_draws(first.numerators_SQ.shape, resamples, seed)
    resampled = first.resampled(*draws) - second.resampled(*draws)
    return CrossedComparison(
        _with_interval(first.value - second.value, resampled, confidence),
        _exchange_test(first, second, resamples, seed),
        [a - b for a, b in zip(first.by_seed, second.by_seed, strict=True)],
        first.numerators_SQ.shape[1],
    )


def _exchange_test(first: Crossed, second: Crossed, resamples: int, seed: int) -> float:
    """Share of the exchanges of seeds (of problems, if there is one seed) with a difference at least as large as was found."""
    axis = 1 if len(first.numerators_SQ) > 1 else 0  # summed over: what is left are the units that are exchanged
    above_U, below_U, other_above_U, other_below_U = (
        x.sum(axis=axis) for method in (first, second) for x in (method.numerators_SQ, method.denominators_SQ)
    )
    n = len(above_U)
    exact = 2**n <= resamples
    if exact:
        kept = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
    else:
        kept = np.random.default_rng(seed).integers(0, 2, size=(resamples, n)).astype(float)
    gone = 1.0 - kept
    differences = _quotients(kept @ above_U + gone @ other_above_U, kept @ below_U + gone @ other_below_U)
    differences -= _quotients(gone @ above_U + kept @ other_above_U, gone @ below_U + kept @ other_below_U)
    differences = differences[~np.isnan(differences)]
    # A hair of slack, as in `compare`.
    n_as_large = int((np.abs(differences) >= abs(first.value - second.value) - 1e-9).sum())
    return n_as_large / len(differences) if exact else (n_as_large + 1) / (len(differences) + 1)
