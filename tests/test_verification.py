"""Verification: what is right, what is wrong, and what is unknown."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.errors import DataError
from tapo_core.records import VerificationOutcome
from tapo_core.verification import as_number, check_gold, extract_answer, verify

CORRECT, WRONG = VerificationOutcome.CORRECT, VerificationOutcome.WRONG
NO_ANSWER, UNKNOWN = VerificationOutcome.NO_ANSWER, VerificationOutcome.UNKNOWN


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and an open \boxed{2", "1"),
        (r"<think>\boxed{7}</think> so \boxed{8}", "8"),
        (r"<think>\boxed{7}</think> no answer", None),
        (r"\fbox{3}", "3"),
        ("19", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "gold", "outcome", "reward"),
    [
        (r"\boxed{14}", "14", CORRECT, 1.0),
        (r"\boxed{ 14. }", "14", CORRECT, 1.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", CORRECT, 1.0),
        (r"\boxed{1/2}", "0.50", CORRECT, 1.0),
        (r"\boxed{1{,}000}", "1000", CORRECT, 1.0),
        (r"\boxed{-3}", "3", WRONG, 0.0),
        (r"\boxed{15}", "14", WRONG, 0.0),
        (r"\boxed{x + 1}", "x + 1", CORRECT, 1.0),
        (r"\boxed{x + 1}", "1 + x", UNKNOWN, None),
        (r"\boxed{9^{9^{9}}}", "42", UNKNOWN, None),
        (r"\boxed{1/0}", "42", UNKNOWN, None),
        (r"\boxed{}", "42", NO_ANSWER, 0.0),
        ("I do not know", "42", NO_ANSWER, 0.0),
    ],
)
def test_verdicts(text: str, gold: str, outcome: VerificationOutcome, reward: float | None) -> None:
    verdict = verify(text, gold)
    assert (verdict.outcome, verdict.reward) == (outcome, reward)
    assert (verdict.reason is not None) == (outcome is UNKNOWN)


@given(st.text(max_size=200), st.text(min_size=1, max_size=30))
def test_no_text_can_break_the_verifier(text: str, gold: str) -> None:
    verify(text, gold)
    verdict = verify(f"\\boxed{{{text}}}", gold)
    assert (verdict.reward is None) == (verdict.outcome is UNKNOWN)


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_equals_itself_however_it_is_written(value: Fraction) -> None:
    plain = f"{value.numerator}/{value.denominator}"
    latex = f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    assert as_number(plain) == as_number(latex) == value
    assert verify(f"\\boxed{{{latex}}}", plain).outcome is CORRECT


def test_a_million_digits_are_not_read_as_a_number() -> None:
    assert as_number("1" * 1_000_000) is None


def test_an_empty_gold_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.jsonl:3: the answer is empty"):
        check_gold("$ $", "data.jsonl:3")
