"""What replay calls a difference. `tests/flows` replays whole runs."""

from dataclasses import replace

import pytest

from tapo_core.differences import differences_between
from tapo_core.records import Advantage, AdvantageGroup, SubjectKind, TokenWeight

ROW = Advantage("run", 1, SubjectKind.ROLLOUT, "a", AdvantageGroup.ORIGINAL, "query", "q", 8, 1.0, 0.25, 0.46, 1.62)
WEIGHTS = TokenWeight("run", 1, "c", [0.5, 1.5], [-1.0, -0.5], [0.5, 0.25])


def test_equal_rows_are_no_difference_up_to_the_last_digits() -> None:
    assert differences_between(Advantage, [ROW], [replace(ROW, value=1.62 * (1 + 1e-12))]) == []
    assert differences_between(TokenWeight, [WEIGHTS], [replace(WEIGHTS, weights_T=[0.5000001, 1.5])]) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", 1.63), ("reward", 0.0), ("group_size", 7), ("scope", "batch"), ("query_id", "other")],
)
def test_a_value_that_came_out_otherwise_is_named(column: str, value: object) -> None:
    (found,) = differences_between(Advantage, [replace(ROW, **{column: value})], [ROW])  # type: ignore[arg-type]
    assert (found.table, found.column) == ("advantage", column)
    assert found.key == "run_id=run, iteration=1, subject_id=a"
    assert found.stored == repr(value)


@pytest.mark.parametrize("weights", [[0.5, 1.501], [0.5], []])
def test_lists_are_compared_token_by_token(weights: list[float]) -> None:
    (found,) = differences_between(TokenWeight, [WEIGHTS], [replace(WEIGHTS, weights_T=weights)])
    assert found.column == "weights_T"


def test_rows_on_one_side_only_are_named() -> None:
    extra = replace(ROW, subject_id="b")
    (missing,) = differences_between(Advantage, [ROW, extra], [ROW])
    assert (missing.key, missing.column, missing.stored, missing.replayed) == (
        "run_id=run, iteration=1, subject_id=b", None, "there", "absent",
    )  # fmt: skip
    (added,) = differences_between(Advantage, [], [ROW])
    assert (added.stored, added.replayed) == ("absent", "there")
