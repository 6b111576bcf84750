"""The formulas, each against an independent slow reference: DCS, DAE, OTS, schedule."""

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.advantages import Normalised, Rewarded, decoupled_advantages, mean_and_std
from tapo_core.config import AdvantageConfig, FilterConfig, TokenWeightConfig, ZpdConfig
from tapo_core.difficulty import (
    GroupCounts,
    Reason,
    draw_candidates,
    judge_construction,
    judge_query,
    judge_rollouts,
    judge_zpd,
)
from tapo_core.records import AdvantageGroup, ParseOutcome, VerificationOutcome
from tapo_core.schedule import number_of_chunks, queries_of_chunk, queries_of_iteration
from tapo_core.token_weights import ood_token_weights

C, W = VerificationOutcome.CORRECT, VerificationOutcome.WRONG
N, U = VerificationOutcome.NO_ANSWER, VerificationOutcome.UNKNOWN
PAPER = FilterConfig()


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ([C] * 2 + [W] * 6, Reason.ELIGIBLE),
        ([C] * 4 + [W] * 3 + [N], Reason.ELIGIBLE),  # no answer is wrong
        ([C] * 1 + [W] * 7, Reason.BEYOND_REACH),
        ([C] * 5 + [W] * 3, Reason.MASTERED),
        ([C] * 2 + [W] * 3 + [U] * 3, Reason.MASTERED),  # unknown is not wrong
        ([C] * 1 + [W] * 3 + [U] * 4, Reason.TOO_FEW_VERDICTS),
    ],
)
def test_eligibility_is_the_papers(outcomes: list[VerificationOutcome], reason: Reason) -> None:
    assert judge_query(GroupCounts.of(outcomes), PAPER) is reason


@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 2**31 - 1))
def test_at_most_m_max_candidates_in_their_order(n_wrong: int, m_max: int, seed: int) -> None:
    wrong = [f"w{i:02d}" for i in range(n_wrong)]
    config = FilterConfig(m_max=m_max)
    drawn = draw_candidates(wrong, config, seed)
    assert drawn == draw_candidates(wrong, config, seed)
    assert len(drawn) == min(m_max, n_wrong)
    assert drawn == sorted(set(drawn))


def test_who_of_a_group_enters_the_batch() -> None:
    mixed = {"a": C, "b": W, "c": U}
    assert judge_rollouts(mixed, Reason.MASTERED, PAPER) == {
        "a": Reason.ORIGINAL_GROUP,
        "b": Reason.ORIGINAL_GROUP,
        "c": Reason.UNKNOWN_VERDICT,
    }
    assert judge_rollouts({"a": W, "b": N, "c": U}, Reason.BEYOND_REACH, PAPER)["a"] is Reason.NO_VARIANCE
    whole = FilterConfig(scope="batch")
    assert judge_rollouts(mixed, Reason.MASTERED, whole)["a"] is Reason.QUERY_NOT_ELIGIBLE
    assert judge_rollouts(mixed, Reason.ELIGIBLE, whole)["a"] is Reason.ORIGINAL_GROUP
    assert judge_rollouts(mixed, Reason.CONSTRUCTIONS_OFF, whole)["a"] is Reason.ORIGINAL_GROUP


def test_who_of_the_constructions_enters_the_batch() -> None:
    strict = FilterConfig(require_correct=True)
    assert judge_construction(ParseOutcome.NO_TAG, None, PAPER) is Reason.NOT_PARSED
    assert judge_construction(ParseOutcome.PARSED, U, PAPER) is Reason.UNKNOWN_VERDICT
    assert judge_construction(ParseOutcome.PARSED, W, PAPER) is Reason.CONSTRUCTED_GROUP
    assert judge_construction(ParseOutcome.PARSED, W, strict) is Reason.NOT_CORRECT
    assert judge_construction(ParseOutcome.PARSED, C, strict) is Reason.CONSTRUCTED_GROUP


def rewarded(prefix: str, rewards: dict[str, list[float]]) -> list[Rewarded]:
    return [Rewarded(f"{prefix}{q}{i}", q, r) for q, values in rewards.items() for i, r in enumerate(values)]


ORIGINAL = {"q1": [1.0, 0.0, 0.0, 0.0], "q2": [1.0, 1.0, 0.0, 1.0]}
CONSTRUCTED = {"q1": [1.0, 1.0, 0.0], "q2": [1.0]}


def test_raw_constructed_rewards_are_their_advantages() -> None:
    config = AdvantageConfig.model_validate({"constructed_scope": "raw", "std_floor": 0.7})
    result = decoupled_advantages(rewarded("o", ORIGINAL), rewarded("c", CONSTRUCTED), config)
    constructed = [item for item in result if item.group is AdvantageGroup.CONSTRUCTED]
    assert [item.value for item in constructed] == [1.0, 1.0, 0.0, 1.0]
    assert {(item.scope, item.group_size, item.mean, item.std) for item in constructed} == {("raw", 1, 0.0, 1.0)}
    others = decoupled_advantages(rewarded("o", ORIGINAL), [], config)
    assert [item for item in result if item.group is AdvantageGroup.ORIGINAL] == others


@pytest.mark.parametrize("scope", ["query", "batch", "original", "merged"])
@pytest.mark.parametrize("floor", [0.0, 0.7])
def test_decoupled_advantages_against_plain_loops(scope: str, floor: float) -> None:
    config = AdvantageConfig.model_validate({"constructed_scope": scope, "std_floor": floor})
    result = decoupled_advantages(rewarded("o", ORIGINAL), rewarded("c", CONSTRUCTED), config)
    everything = list(itertools.chain.from_iterable(CONSTRUCTED.values()))
    for item in result:
        if scope == "merged":
            group = ORIGINAL[item.query_id] + CONSTRUCTED[item.query_id]
        elif item.group is AdvantageGroup.ORIGINAL or scope == "original":
            group = ORIGINAL[item.query_id]
        else:
            group = CONSTRUCTED[item.query_id] if scope == "query" else everything
        mean = sum(group) / len(group)
        std = statistics.stdev(group) if len(group) > 1 else 0.0
        floored = max(std, floor)
        expected = (item.reward - mean) / (floored + config.eps) if floored else 0.0
        assert item.value == pytest.approx(expected, abs=1e-12)
        assert (item.mean, item.std, item.group_size) == (pytest.approx(mean), pytest.approx(std), len(group))


def test_constructed_rewards_never_move_the_originals() -> None:
    def values(constructed: dict[str, list[float]]) -> list[Normalised]:
        everything = decoupled_advantages(rewarded("o", ORIGINAL), rewarded("c", constructed), AdvantageConfig())
        return [item for item in everything if item.group is AdvantageGroup.ORIGINAL]

    assert values({}) == values(CONSTRUCTED) == values({"q1": [0.0] * 9, "q2": [1.0]})


def test_merging_the_groups_contaminates_the_originals() -> None:
    def originals(scope: str) -> dict[str, float]:
        config = AdvantageConfig.model_validate({"constructed_scope": scope})
        everything = decoupled_advantages(rewarded("o", ORIGINAL), rewarded("c", {"q1": [1.0] * 4}), config)
        return {i.subject_id: i.value for i in everything if i.group is AdvantageGroup.ORIGINAL and i.query_id == "q1"}

    apart, merged = originals("query"), originals("merged")
    assert all(merged[subject_id] < apart[subject_id] for subject_id in apart)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_mean_and_std_do_not_depend_on_order(values: list[float], rng: object) -> None:
    shuffled = list(values)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mean_and_std(values) == mean_and_std(shuffled)


def test_a_group_without_variance_has_advantage_zero() -> None:
    equal = rewarded("o", {"q": [0.1] * 7})
    assert {item.value for item in decoupled_advantages(equal, [], AdvantageConfig(eps=0.0))} == {0.0}


@given(st.lists(st.tuples(st.floats(-100, 0), st.floats(0, 12)), max_size=20))
def test_ots_weights_against_the_formula(tokens: list[tuple[float, float]]) -> None:
    logprobs, entropies = [t[0] for t in tokens], [t[1] for t in tokens]
    weights = ood_token_weights(logprobs, entropies, TokenWeightConfig())
    for weight, logprob, entropy in zip(weights, logprobs, entropies, strict=True):
        assert weight == pytest.approx(min(max(math.exp(logprob + entropy), 0.01), 10.0))


def test_ots_off_and_uneven_lists() -> None:
    assert ood_token_weights([-5.0, -1.0], [0.0, 0.0], TokenWeightConfig(enabled=False)) == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        ood_token_weights([-1.0], [], TokenWeightConfig())
    assert ood_token_weights([0.0], [1e6], TokenWeightConfig()) == [pytest.approx(10.0)]


@given(st.integers(1, 30), st.integers(1, 10), st.integers(0, 100))
def test_an_epoch_uses_no_query_twice(n: int, count: int, seed: int) -> None:
    ids = [f"q{i:02d}" for i in range(n)]
    if count > n:
        with pytest.raises(ValueError, match="queries an iteration"):
            queries_of_iteration(ids, count, 1, seed)
        return
    per_epoch = n // count
    epoch = [queries_of_iteration(ids, count, i + 1, seed) for i in range(per_epoch)]
    flat = list(itertools.chain.from_iterable(epoch))
    assert len(set(flat)) == len(flat) == per_epoch * count
    assert epoch[0] == queries_of_iteration(list(reversed(ids)), count, 1, seed)


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ([C] * 1 + [W] * 6 + [N], Reason.ZPD_INSIDE),
        ([C] * 7 + [W] * 1, Reason.ZPD_INSIDE),
        ([W] * 8, Reason.ZPD_TOO_HARD),
        ([C] * 8, Reason.ZPD_TOO_EASY),
        ([C] * 7 + [U] * 1, Reason.ZPD_TOO_EASY),  # unknown is not wrong
        ([C] * 1 + [W] * 1 + [U] * 6, Reason.ZPD_INSIDE),
        ([W] * 1 + [U] * 7, Reason.ZPD_TOO_HARD),
        ([U] * 8, Reason.ZPD_UNKNOWN),
    ],
)
def test_zpd_bounds_belong_to_the_zone(outcomes: list[VerificationOutcome], reason: Reason) -> None:
    assert judge_zpd(GroupCounts.of(outcomes), ZpdConfig()) is reason


def test_chunks_go_through_every_query_once() -> None:
    ids = [f"q{n:02d}" for n in range(23)]
    chunks = [queries_of_chunk(ids[::-1], 5, chunk) for chunk in range(1, number_of_chunks(23, 5) + 1)]
    assert [query for chunk in chunks for query in chunk] == ids
    assert [len(chunk) for chunk in chunks] == [5, 5, 5, 5, 3]
