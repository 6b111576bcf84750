"""Evaluation metrics against tables made by hand and by plain loops."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.reflection import reflects
from tapo_core.statistics import (
    Counts,
    Crossed,
    Sampled,
    compare,
    compare_crossed,
    consensus,
    count,
    crossed_estimate,
    estimates,
    part,
    pass_at_k,
)


def problem(n_direct: int, n_reflected: int, n_wrong: int, n_wrong_reflected: int) -> list[Sampled]:
    """Samples of a problem: correct ones first."""
    return [
        *(Sampled(True, "7", False, 10) for _ in range(n_direct)),
        *(Sampled(True, "7", True, 30) for _ in range(n_reflected)),
        *(Sampled(False, "8", False, 12) for _ in range(n_wrong)),
        *(Sampled(False, None, True, 40) for _ in range(n_wrong_reflected)),
    ]


#: 30 problems of 16 samples, three kinds of ten: mastered, mixed, never solved.
BENCHMARK = [*[problem(16, 0, 0, 0)] * 10, *[problem(3, 1, 8, 4)] * 10, *[problem(0, 0, 10, 6)] * 10]


def test_thirty_problems_of_sixteen_samples_by_hand() -> None:
    found = {name: estimate.value for name, estimate in estimates(BENCHMARK, 0.95, 500, seed=4).items()}
    reach = {k: 1 - math.prod((12 - i) / (16 - i) for i in range(k)) for k in (2, 4, 8)}  # 4 of 16 are correct
    assert found == pytest.approx(
        {
            "pass@1": 200 / 480,
            **{f"pass@{k}": (10 + 10 * value) / 30 for k, value in reach.items()},
            "pass@16": 20 / 30,
            "cons@16": 10 / 30,  # of the mixed problems, "8" has 8 votes and "7" has 4
            "dsr": 190 / 200,
            "err": 10 / 110,
            "dsr@all": 190 / 480,
            "err@all": 10 / 480,
            "reflection_rate": 110 / 480,
            "mean_tokens": (10 * 16 * 10 + 10 * (30 + 30 + 96 + 160) + 10 * (120 + 240)) / 480,
        }
    )


@pytest.mark.parametrize("metric", ["pass@1", "pass@4", "err"])
def test_intervals_against_plain_loops(metric: str) -> None:
    resamples, confidence, seed = 300, 0.9, 11
    parts = {
        "pass@1": [(1.0, 1.0)] * 10 + [(0.25, 1.0)] * 10 + [(0.0, 1.0)] * 10,
        "pass@4": [(1.0, 1.0)] * 10 + [(1 - 495 / 1820, 1.0)] * 10 + [(0.0, 1.0)] * 10,
        "err": [(0.0, 0.0)] * 10 + [(1.0, 5.0)] * 10 + [(0.0, 6.0)] * 10,
    }[metric]
    values = []
    for draw in np.random.default_rng(seed).integers(0, 30, size=(resamples, 30)):
        values.append(sum(parts[i][0] for i in draw) / sum(parts[i][1] for i in draw))
    values.sort()
    expected = []
    for share in (0.05, 0.95):
        place = share * (resamples - 1)
        low, rest = int(place), place - int(place)
        expected.append(values[low] * (1 - rest) + values[low + 1] * rest)
    found = estimates(BENCHMARK, confidence, resamples, seed)[metric]
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_intervals_cluster_by_problem() -> None:
    coin = [problem(16, 0, 0, 0), problem(0, 0, 16, 0)] * 15
    found = estimates(coin, 0.95, 4000, seed=1)["pass@1"]
    # 30 problems, not 480 samples: the interval of a fair coin tossed 30 times.
    assert found.low == pytest.approx(0.5 - 1.96 * math.sqrt(0.25 / 30), abs=0.03)
    assert found.high == pytest.approx(0.5 + 1.96 * math.sqrt(0.25 / 30), abs=0.03)


def test_what_has_nothing_to_stand_on_is_left_out() -> None:
    assert "err" not in estimates([problem(1, 0, 1, 0)], 0.95, 10, seed=0)
    assert "dsr" not in estimates([problem(0, 0, 1, 1)], 0.95, 10, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        estimates([], 0.95, 10, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        estimates([[]], 0.95, 10, seed=0)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_mean_over_all_choices(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    samples = [True] * correct + [False] * (n - correct)
    choices = list(itertools.combinations(samples, k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(any(choice) for choice in choices) / len(choices))


def test_consensus_shares_ties() -> None:
    def vote(*answers: str | None) -> float:
        return consensus([Sampled(answer == "7", answer, False, 1) for answer in answers])

    assert vote("7", "7", "8") == 1.0
    assert vote("8", "8", "7") == 0.0
    assert vote("7", "8") == 0.5
    assert vote("7", None, None) == 1.0  # no answer is no vote
    assert vote(None) == 0.0


def test_a_comparison_is_paired_and_exact_where_that_can_be_counted() -> None:
    first, second = [0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.7, 0.5, 0.3, 0.5]
    found = compare(first, second, 0.95, 20_000, seed=3)
    assert found.difference.value == pytest.approx(0.2)
    flips = itertools.product((-1, 1), repeat=5)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    sums = Counter(abs(sum(s * d for s, d in zip(f, differences, strict=True))) >= 1.0 - 1e-9 for f in flips)
    assert found.p_value == pytest.approx(sums[True] / 32, abs=0.01)
    swapped = compare(second, first, 0.95, 20_000, seed=3)
    assert swapped.difference.value == pytest.approx(-0.2)
    assert compare(first, first, 0.95, 100, seed=0).p_value == 1.0
    with pytest.raises(ValueError, match="same problems twice"):
        compare([1.0], [], 0.95, 10, seed=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7 + 12 = 18\nWait, 7 + 12 is not 18. Let me redo this step.", True),
        ("That gives 23, not 26: x = 6 is too small.", True),
        ("So x = 3. Hmm, that is too small.", True),
        ("I made a mistake in step 2.", True),
        ("Let me double-check the product.", True),
        ("7 + 12 = 19\nAnswer: \\boxed{19}", False),
        ("They wait for 5 minutes, so actually nothing changes.", False),
        ("Let me compute the sum.", False),
    ],
)
def test_reflection_is_seen_in_words(text: str, expected: bool) -> None:
    assert reflects(text) is expected


def test_metrics_of_counts_are_those_of_samples() -> None:
    counts = count(problem(3, 1, 8, 4))
    assert counts == Counts(16, 4, 5, 1)
    assert [part(metric, counts) for metric in ("pass@1", "dsr", "err", "dsr@all", "err@all", "reflection_rate")] == [
        (0.25, 1.0), (3, 4), (1, 5), (3 / 16, 1.0), (1 / 16, 1.0), (5 / 16, 1.0),
    ]  # fmt: skip
    for metric in ("mean_tokens", "pass@x", "cons@16"):
        with pytest.raises(ValueError, match="is no metric of counts"):
            part(metric, counts)


def crossed(rates_SQ: list[list[float]]) -> Crossed:
    return Crossed(np.array(rates_SQ), np.ones_like(np.array(rates_SQ)))


def test_seeds_and_problems_are_both_resampled() -> None:
    generator = np.random.default_rng(2)
    shape, seeds, problems, noise = (6, 200), 0.05, 0.3, 0.1
    rates = (
        0.5
        + generator.normal(0, seeds, (6, 1))
        + generator.normal(0, problems, (1, 200))
        + generator.normal(0, noise, shape)
    )
    found = crossed_estimate(crossed(rates.tolist()), 0.95, 20_000, seed=1)
    assert found is not None
    # The variance of a crossed mean, from what the two margins show.
    spread = math.sqrt(rates.mean(axis=1).var() / 6 + rates.mean(axis=0).var() / 200)
    assert found.value == pytest.approx(rates.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.06)
    alone = crossed_estimate(crossed(rates[:1].tolist()), 0.95, 20_000, seed=1)
    assert alone is not None
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * rates[0].std() / math.sqrt(200), rel=0.06), (
        "problems only"
    )


def test_crossed_intervals_against_plain_loops() -> None:
    above, below = [[1.0, 0.0, 3.0], [2.0, 2.0, 0.0]], [[2.0, 0.0, 4.0], [3.0, 2.0, 1.0]]
    generator = np.random.default_rng(5)
    draws = [generator.multinomial(n, [1 / n] * n, size=400) for n in (2, 3)]
    values = []
    for times_S, times_Q in zip(*draws, strict=True):
        sums = [
            sum(times_S[s] * times_Q[q] * part[s][q] for s in range(2) for q in range(3)) for part in (above, below)
        ]
        if sums[1] > 0:
            values.append(sums[0] / sums[1])
    found = crossed_estimate(Crossed(np.array(above), np.array(below)), 0.9, 400, seed=5)
    assert found is not None
    assert found.value == pytest.approx(8 / 12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))
    assert crossed_estimate(Crossed(np.zeros((2, 3)), np.zeros((2, 3))), 0.9, 400, seed=5) is None


def test_two_methods_are_compared_on_the_same_resample() -> None:
    generator = np.random.default_rng(3)
    second = generator.uniform(0, 0.8, (5, 40))
    found = compare_crossed(crossed((second + 0.1).tolist()), crossed(second.tolist()), 0.95, 2000, seed=0)
    assert found is not None
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.by_seed == pytest.approx([0.1] * 5)
    assert (found.p_value, found.n_problems) == (2 / 32, 40), "no less than five seeds can show"


def test_the_runs_of_a_seed_are_exchanged_whole() -> None:
    first, second = [[0.9, 0.7], [0.6, 0.4], [0.2, 0.4]], [[0.5, 0.5], [0.5, 0.3], [0.4, 0.4]]
    found = compare_crossed(crossed(first), crossed(second), 0.95, 100, seed=0)
    assert found is not None
    by_seed = [0.3, 0.1, -0.1]
    flips = [
        abs(sum(sign * d for sign, d in zip(signs, by_seed, strict=True)))
        for signs in itertools.product((-1, 1), repeat=3)
    ]
    assert found.by_seed == pytest.approx(by_seed)
    assert found.p_value == sum(flip >= 0.3 - 1e-9 for flip in flips) / 8
    one = compare_crossed(crossed([[0.9, 0.8, 0.7]]), crossed([[0.5, 0.4, 0.3]]), 0.95, 100, seed=0)
    assert one is not None
    assert one.p_value == 2 / 8, "with one seed the problems are exchanged"
    drawn = compare_crossed(crossed([[0.9] * 12]), crossed([[0.5] * 12]), 0.95, 100, seed=0)
    assert drawn is not None
    assert 1 / 101 <= drawn.p_value < 0.05, "2^12 exchanges are more than 100: so many are drawn"
    with pytest.raises(ValueError, match="not the same seeds and problems"):
        compare_crossed(crossed(first), crossed(second[:2]), 0.95, 100, seed=0)
    nothing = Crossed(np.zeros((3, 2)), np.zeros((3, 2)))
    assert compare_crossed(crossed(first), nothing, 0.95, 100, seed=0) is None
