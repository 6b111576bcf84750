"""The arithmetic method: what it flags is false, and what it cannot read it leaves alone."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.error_location import evaluate, locate_by_arithmetic, wrong_equation
from tapo_core.steps import split_steps


@pytest.mark.parametrize(
    ("step", "evidence"),
    [
        ("17 + 9 = 25", "17 + 9 = 25, but 17 + 9 is 26"),
        ("so 3 + 4 = 8.", "3 + 4 = 8, but 3 + 4 is 7"),
        ("3 * 6 = 18 + 1 = 19", "3 * 6 = 18 + 1, but 3 * 6 is 18"),
        ("(2+3)*4 = 21", "(2+3)*4 = 21, but (2+3)*4 is 20"),
        ("17 + 9 = 26", None),
        ("10 / 4 = 2.5", None),
        ("1/3 = 0.333", None),  # equal up to the decimals that were written
        ("2x + 3 = 7", None),  # not arithmetic
        ("5 + 3 = 8x", None),
        ("x = 6", None),
        ("That gives 23, not 26, so x = 6 is wrong.", None),
        ("5 / 0 = 1", None),
        ("", None),
    ],
)
def test_wrong_equations(step: str, evidence: str | None) -> None:
    assert wrong_equation(step) == evidence


def test_the_first_wrong_step_is_located() -> None:
    found = locate_by_arithmetic(split_steps("7 + 12 = 19\n\n19 - 5 = 13\n13 + 9 = 23"))
    assert (found.method, found.step) == ("arithmetic", 1)
    assert found.evidence == "19 - 5 = 13, but 19 - 5 is 14"
    nothing = locate_by_arithmetic(split_steps("I think it is 4."))
    assert (nothing.step, nothing.evidence) == (None, None)


@given(st.integers(-99, 99), st.sampled_from("+-*"), st.integers(0, 99), st.integers(-3, 3))
def test_exactly_the_false_equations_are_flagged(a: int, operator: str, b: int, slip: int) -> None:
    value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    assert (wrong_equation(f"{a} {operator} {b} = {value + slip}") is not None) == (slip != 0)


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=6,
)


@given(expressions)
def test_evaluation_equals_pythons(expression: str) -> None:
    expected = eval(expression, {"__builtins__": {}})
    assert evaluate(expression) == expected


@pytest.mark.parametrize("text", ["2 ** 3", "a + 1", "1 +", "(1 + 2", "9" * 40, "__import__('os')", "(" * 90 + "1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        evaluate(text)


def test_division_is_exact() -> None:
    assert evaluate("1/3 + 1/6") == Fraction(1, 2)


@given(st.text(max_size=200))
def test_no_text_can_break_the_method(text: str) -> None:
    locate_by_arithmetic(split_steps(text))
