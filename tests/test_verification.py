"""Verification: where the answer is, what a few microseconds tell, and what the symbolic tier says."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.config_verifier import VerifierConfig
from tapo_core.records import VerificationOutcome
from tapo_core.verification.answers import extract_answer, quick_number
from tapo_core.verification.base import Question, Verdict
from tapo_core.verification.guards import too_large
from tapo_core.verification.math import END, MathVerifier, Told
from tapo_core.verification.nano import NanoVerifier
from tapo_core.verification.reading import canonical_answer, exact_value

CORRECT, WRONG = VerificationOutcome.CORRECT, VerificationOutcome.WRONG
NO_ANSWER, UNKNOWN = VerificationOutcome.NO_ANSWER, VerificationOutcome.UNKNOWN


class NoWorkers(MathVerifier):
    """What is left to the workers is an error here."""

    def _ask(self, questions: list[dict[str, str]]) -> list[Told]:
        assert not questions
        return []


@pytest.fixture(scope="module")
def math() -> Iterator[MathVerifier]:
    verifier = MathVerifier(VerifierConfig(), workers=2)
    yield verifier
    verifier.close()


def judged(verifier: MathVerifier, text: str, gold: str, finished: bool = True) -> Verdict:
    (verdict,) = verifier.verify([Question("", gold, text, finished)])
    return verdict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and an open \boxed{2", "1"),
        ("\\boxed{1} " + "so " * 5000 + r"\boxed{2", "1"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$\boxed{1}$, \(\boxed{2}\) or $x = \boxed{3}$", "1, 2, 3"),
        (r"$\boxed{5}$ $\boxed{5}$", "5"),
        (r"\boxed{1}. Wait, that is wrong. \boxed{2}", "2"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"<think>\boxed{7}</think> so \boxed{8}", "8"),
        (r"<think>\boxed{7}</think> no answer", None),
        (r"\fbox{3}", "3"),
        (r"\boxed {4}", "4"),
        ("19", None),
        ("", None),
    ],
)
def test_extraction(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@given(st.text(alphabet="\\boxedfrac{}12, and$ ", max_size=60), st.integers(0, 99))
def test_the_last_box_is_found_whatever_comes_before_it(text: str, answer: int) -> None:
    assert extract_answer(f"{text}. So: \\boxed{{{answer}}}") == str(answer)


@pytest.mark.parametrize(
    ("text", "gold", "outcome", "tier"),
    [
        (r"\boxed{14}", "14", CORRECT, "exact"),
        (r"\boxed{ 14. }", "14", CORRECT, "number"),
        (r"\boxed{0.5}", r"\frac{1}{2}", CORRECT, "number"),
        (r"\boxed{1/2}", "0.50", CORRECT, "number"),
        (r"\boxed{1{,}000}", "1000", CORRECT, "number"),
        (r"\boxed{1 000}", "1000", CORRECT, "number"),
        (r"\boxed{\$1,\!657}", r"\$1657", CORRECT, "kind"),
        (r"\boxed{-3}", "3", WRONG, "number"),
        (r"\boxed{15}", "14", WRONG, "number"),
        (r"\boxed{x + 1}", "x + 1", CORRECT, "exact"),
        (r"\boxed{\text{Evelyn}}", "Evelyn", CORRECT, "kind"),
        (r"\boxed{}", "42", NO_ANSWER, "extraction"),
        ("", "42", NO_ANSWER, "extraction"),
        ("42", "42", CORRECT, "number-text"),
        ("43", "42", WRONG, "number-text"),
        (r"\boxed{" + "1" * 2000 + "}", "42", UNKNOWN, "guard"),
        (r"\boxed{(2, 1)}", "(1, 2)", WRONG, "kind"),
        (r"\boxed{(1,200)}", "(1200)", WRONG, "kind"),
        (r"\boxed{\{2, 1\}}", r"\{1, 2\}", CORRECT, "kind"),
        (r"The roots are \boxed{2} and \boxed{1}.", "1, 2", CORRECT, "kind"),
        (r"\boxed{0.333333}", r"\frac{1}{3}", CORRECT, "number"),
        (r"\boxed{50\%}", "0.5", CORRECT, "kind"),
        (r"\boxed{1 2}", "12", UNKNOWN, "kind"),
        ("So the answer is $x = 7$.", "7", CORRECT, "kind-text"),
        ("So the final answer is 8. I hope it is correct.", "7", WRONG, "number-text"),
    ],
)
def test_what_needs_no_worker(text: str, gold: str, outcome: VerificationOutcome, tier: str) -> None:
    verdict = judged(NoWorkers(VerifierConfig(), workers=1), text, gold)
    assert (verdict.outcome, verdict.tier) == (outcome, tier)
    assert verdict.reward == {CORRECT: 1.0, WRONG: 0.0, NO_ANSWER: 0.0, UNKNOWN: None}[outcome]
    assert (verdict.reason is not None) == (outcome is UNKNOWN)


@pytest.mark.parametrize(
    ("text", "gold", "outcome"),
    [
        (r"\boxed{1 + x}", "x + 1", CORRECT),
        (r"\boxed{x + 2}", "x + 1", WRONG),
        (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}", CORRECT),
        (r"\boxed{__import__('os').system('true')}", "42", WRONG),
        (
            "So in the end we are left with $1 + x$, as it has to be, whatever we did in between to get there.",
            "x+1",
            CORRECT,
        ),
        (r"\boxed{\sqrt{2}}", "1.414214", CORRECT),
        (r"\boxed{\{x + 1, x\}}", r"\{x, 1 + x\}", CORRECT),
    ],
)
def test_symbolic(math: MathVerifier, text: str, gold: str, outcome: VerificationOutcome) -> None:
    verdict = judged(math, text, gold)
    assert (verdict.outcome, verdict.tier.removesuffix("-text")) == (outcome, "symbolic")
    assert verdict.reason is None
    assert verdict.milliseconds > 0


def test_a_text_that_was_cut_off_has_its_answer_in_a_box_or_nowhere(math: MathVerifier) -> None:
    assert judged(math, "It is 7", "7", finished=False).outcome is NO_ANSWER
    assert judged(math, r"It is \boxed{7}, because", "7", finished=False).outcome is CORRECT
    strict = MathVerifier(VerifierConfig(fallback="none"), workers=1)
    assert judged(strict, "It is 7", "7").outcome is NO_ANSWER


def test_a_pair_is_judged_once_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    verifier = MathVerifier(VerifierConfig(), workers=1, known=lambda: [(("2x", "x+x"), "correct")])
    pool = verifier._pool
    original = pool.ask
    monkeypatch.setattr(pool, "ask", lambda qs: asked.extend(q["prediction"] for q in qs) or original(qs))
    try:
        questions = [Question("", "x+1", text) for text in (r"\boxed{1+x}", r"a \boxed{1+x}", r"\boxed{1  +  x}")]
        assert [verdict.outcome for verdict in verifier.verify([*questions, *questions])] == [CORRECT] * 6
        assert asked == ["1 + x"], "the same expression, however it is spaced"
        assert [v.outcome for v in verifier.verify([*questions, Question("", "x+x", r"\boxed{2x}")])] == [CORRECT] * 4
        assert len(asked) == 1, "known from now on, and from before"
    finally:
        verifier.close()


@given(st.text(max_size=200), st.text(min_size=1, max_size=30))
def test_no_text_breaks_what_needs_no_worker(text: str, gold: str) -> None:
    for wrapped in (text, f"\\boxed{{{text}}}"):
        answer = extract_answer(wrapped)
        assert answer is None or isinstance(canonical_answer(answer), str)
        too_large(wrapped)
        quick = quick_number(gold)
        assert quick is None or exact_value(gold) == quick


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_equals_itself_however_it_is_written(value: Fraction) -> None:
    plain = f"{value.numerator}/{value.denominator}"
    sign = "-" if value < 0 else ""
    latex = f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    assert exact_value(plain) == exact_value(latex) == quick_number(latex) == value
    assert judged(NoWorkers(VerifierConfig(), workers=1), f"\\boxed{{{latex}}}", plain).outcome is CORRECT


@given(st.integers(-(10**12), 10**12))
def test_digits_in_groups_are_the_number(value: int) -> None:
    assert quick_number(f"{value:,}") == exact_value(f"{value:,}".replace(",", "{,}")) == value


@pytest.mark.parametrize("answer", ["1" * 1_000_000, "1/0", "1 2", "(1,000)", "0,111", "1e5", "", "x", "--1"])
def test_what_is_no_plain_number(answer: str) -> None:
    assert quick_number(answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^{9}}}",
        "9^9^9^9",
        "2^{10^{12}}",
        "10^{100000}",
        "1e400000000",
        "1000000!",
        "((9!)!)!",
        r"\binom{10^9}{5}",
        r"\sum_{n=1}^{10^{8}} 1",
        "(" * 50 + ")" * 50,
        "7" * 100,
    ],
)
def test_guards(answer: str) -> None:
    assert too_large(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "-x^5+4x^3+24x^2",
        "(2^3)(3^4)(5^7)",
        "2004!",
        "x^{2^{3}}",
        "2^{10}",
        "10^{100}",
        "e^{x^2}",
        "20!",
        r"\binom{10}{3}",
        r"\sum_{k=1}^{n} k",
        r"\frac{1}{1+\sqrt{2}}",
    ],
)
def test_what_the_guards_let_through(answer: str) -> None:
    assert too_large(answer) is None


def test_gold_answers_are_held_against_themselves(math: MathVerifier) -> None:
    golds = ["12", "x+1", r"\frac{1}{2}", "", "$ $", "9^{9^{9^{9}}}", r"\text{east}", "x" * (END + 1)]
    problems = math.gold_problems(golds)
    assert [problem is not None for problem in problems] == [False, False, False, True, True, True, False, True]
    assert problems[5] == "powers of powers, which no answer can be held against"


@pytest.mark.parametrize(
    ("text", "outcome"),
    [(r"\boxed{14}", CORRECT), (r"\boxed{14.0}", WRONG), (r"\boxed{2 + }", WRONG), ("14", NO_ANSWER)],
)
def test_nano_takes_whole_numbers_in_a_box(text: str, outcome: VerificationOutcome) -> None:
    (verdict,) = NanoVerifier().verify([Question("", "14", text)])
    assert verdict.outcome is outcome
    assert NanoVerifier().gold_problems(["14", "-3", "x"]) == [None, None, "it is not a whole number"]
