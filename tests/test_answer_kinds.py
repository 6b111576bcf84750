"""What an answer is, and whether two answers are the same: cases that real data sets and models brought, and made pairs."""

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import pytest
from answer_pairs import ALGEBRA, CHEAP, PairOfAnswers, pairs, strangers
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.config_verifier import VerifierConfig
from tapo_core.records import VerificationOutcome
from tapo_core.verification.base import Question
from tapo_core.verification.kinds import (
    Choice,
    Collection,
    InBase,
    Quantity,
    Ratio,
    Relation,
    SetUnion,
    Time,
    Unread,
    Words,
)
from tapo_core.verification.math import MathVerifier
from tapo_core.verification.prose import find_answer
from tapo_core.verification.reading import read

CORRECT, WRONG, UNKNOWN = VerificationOutcome.CORRECT, VerificationOutcome.WRONG, VerificationOutcome.UNKNOWN


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier(VerifierConfig(), workers=2)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (r"3\frac{1}{2}", Quantity), (r"5 \text{ cm}", Quantity), ("60°", Quantity), ("$5", Quantity), ("x+y", Quantity),
        (r"\text{four}", Quantity), ("p - q", Quantity), ("9:45 p.m.", Time), ("12:20", Ratio), ("3:5:7", Ratio),
        ("204_5", InBase), ("(C)", Choice), ("x", Choice), ("HHT", Words), (r"\text{east}", Words), ("1, 2", Collection),
        ("(1, 2]", Collection), (r"1 \pm \sqrt{2}", Collection), (r"(0,1) \cup (2,3)", SetUnion), ("x = 3", Relation),
        ("x < 3", Relation), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", Unread), (r"2\frac{7}{3}", Unread), ("1/2x", Unread),
    ],
)  # fmt: skip
def test_what_an_answer_is(text: str, kind: type) -> None:
    assert type(read(text)) is kind


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"2\frac{1}{3}", "7/3"), (r"-2\tfrac13", "-7/3"), ("2 3/4", "11/4"), ("2½", "5/2"), ("1e-05", "1/100000"),
        (r"6.02 \times 10^{23}", "602000000000000000000000"), ("2**10", "1024"), (r"0.\overline{36}", "4/11"),
        ("0.1666...", "1/6"), ("0.(3)", "1/3"), (r"\sqrt{\frac{9}{4}}", "3/2"), ("1 000.5", "2001/2"), ("5!", "120"),
        (r"11,\! 111", "11111"), ("−3", "-3"), ("５", "5"), (r"\binom{5}{2}", "10"),
    ],
)  # fmt: skip
def test_exact_values(text: str, value: str) -> None:
    found = read(text)
    assert isinstance(found, Quantity)
    assert found.value == Fraction(value)


#: Gold answer, answer, outcome.
CASES = [
    # mixed numbers
    (r"7", r"2\frac{1}{3}", WRONG), (r"\frac{7}{3}", r"2\frac{1}{3}", CORRECT), (r"\frac{7}{3}", "2⅓", CORRECT),
    (r"2\frac{1}{3}\text{ cups}", r"\frac{7}{3}", CORRECT), ("(7, 1)", r"(2\frac{1}{3}, 1)", WRONG),
    # words and letters
    ("Amy", "May", WRONG), ("HHT", "THH", WRONG), ("m", "M", WRONG), ("True", "true", CORRECT), ("ab", "ba", WRONG),
    ("xy", "yx", CORRECT), (r"\text{Evelyn}", "Evelyn", CORRECT), ("AaBb", "AABB", UNKNOWN), ("2m", "2M", WRONG),
    # small numbers, times, units
    (r"\sqrt{2} \times 10^{-20}", r"\sqrt{3} \times 10^{-20}", WRONG), (r"6.626 \times 10^{-34}", "6.626e-34", CORRECT),
    ("12:20", "6:10", WRONG), ("9:05", "09:05", CORRECT), (r"9:45 \text{ a.m.}", "9:45 AM", CORRECT),
    ("8:00 p.m.", "20:00", CORRECT), ("1:5", "2:10", CORRECT), (r"5 \text{ cm}", r"50 \text{ mm}", CORRECT),
    (r"5 \text{ cm}", r"5 \text{ cm}^2", WRONG), (r"5 \text{ cm}", "5", CORRECT), ("5", r"5 \text{ apples}", CORRECT),
    (r"5 \text{ red apples}", "5 apples", CORRECT), (r"5 \text{ apples}", r"5 \text{ oranges}", UNKNOWN),
    (r"50\%", "0.5", CORRECT), (r"50\%", "50", CORRECT), (r"50\%", r"50 \text{ cm}", WRONG), ("5m", "5", WRONG),
    (r"36 \text{ km/h}", r"10 \text{ m/s}", CORRECT), ("$5", "5 dollars", CORRECT), (r"60^\circ", r"\frac{\pi}{3}", UNKNOWN),
    # plain notation
    ("pi/4", r"\frac{\pi}{4}", CORRECT), ("sqrt(2)/2", r"\frac{1}{\sqrt{2}}", CORRECT), ("2e3", "3e2", WRONG),
    ("x**2+1", "1+x²", CORRECT), ("2ab", "2", WRONG), ("3x10", "30", UNKNOWN),
    # full stops, Unicode, roundings
    (r"3\pi.", r"\pi \cdot 3", CORRECT), ("(1,2).", "(1, 2)", CORRECT), (r"\sqrt{2}", "√2", CORRECT),
    ("x <= 3", "x ≤ 3", CORRECT),
    (r"\frac{1}{3}", "0.333333", CORRECT), (r"\frac{1}{3}", "0.3333", WRONG), ("0.33", r"\frac{1}{3}", UNKNOWN),
    ("0.5", "0.5000001", WRONG), (r"\sqrt{17}", "4.123105625617661", CORRECT), (r"\sqrt{17}", "4.123106", CORRECT),
    (r"\sqrt{17}", "4.123107", WRONG), (r"\frac{1}{3}", r"0.\overline{3}", CORRECT),
    # several answers
    ("2, 5", "2.5", WRONG), ("1000.99", "1000,99", CORRECT), (r"\{1, 2\}", "2 and 1", CORRECT), ("(1, 2)", "(2, 1)", WRONG),
    ("[0, 1)", "(0, 1)", WRONG), ("x = 1, y = 2", "y = 2, x = 1", CORRECT), ("x = 1, y = 2", "2, 1", WRONG),
    (r"1 \pm \sqrt{2}", r"1 - \sqrt{2}, 1 + \sqrt{2}", CORRECT), ("x = 3", "y = 3", WRONG), ("1, 1, 2", "1, 2", WRONG),
    ("x < 1 and x > 2", "x < 1 or x > 2", UNKNOWN), ("1 < x < 2", "2 > x > 1", CORRECT), ("x > 1", r"(1, \infty)", CORRECT),
    (r"\{\{1\}, 2\}", r"\{1, \{2\}\}", WRONG), ("{1, 2}", "(1, 2)", WRONG), ("10, 100", "10,100", UNKNOWN),
    ("3 and 1/2", "1/2, 3", UNKNOWN), (r"\langle 1, 2 \rangle", "(1, 2)", CORRECT), ("f'(x)", "f(x)", UNKNOWN),
    # dates, rates, percentages, imaginary numbers, exact decimals
    ("2024-01-02", "2024-02-01", WRONG), ("January 5", r"5\text{th of January}", CORRECT), ("1:20", r"\frac{1}{20}", UNKNOWN),
    ("5 apples per box", "5 boxes per apple", UNKNOWN),
    (r"7 \text{ light years}", "7 years", UNKNOWN), ("0.5", r"0.5\%", UNKNOWN),
    ("20", r"20\%", CORRECT), ("2 hours 15 minutes", "135 min", CORRECT), ("7 days", "1 week", CORRECT),
    ("vitamin A", "vitamin", WRONG),
    ("2i", "(1+i)^2", CORRECT), ("-1", "i^2", CORRECT), (r"\frac{2}{1+i}", "1 - i", CORRECT),
    ("0.5", r"\cos 60^\circ", CORRECT),
    ("1.00000", r"\cos(0.0001)", UNKNOWN), (r"0.\overline{142857}", r"\frac{1}{7}", CORRECT), ("3 x 10^8", "3e8", CORRECT),
    ("5", "1" * 450, UNKNOWN), ("5", "=" * 900, WRONG), (r"\mathbf{A}\mathbf{B}", r"\mathbf{B}\mathbf{A}", UNKNOWN),
    ("204_5", "204_6", WRONG), ("204_5", "54", CORRECT), ("204_5", "204", UNKNOWN), ("3:4", r"\frac{3}{4}", CORRECT),
]  # fmt: skip


def test_cases(verifier: MathVerifier) -> None:
    verdicts = verifier.verify([Question("", gold, rf"So it is \boxed{{{answer}}}.") for gold, answer, _ in CASES])
    found = [(gold, answer, verdict.outcome) for (gold, answer, _), verdict in zip(CASES, verdicts, strict=True)]
    assert found == CASES


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>8</answer>", "8"), ("<answer> 8 </answer>", "8"), ("Therefore the answer is B.", "B"),
        ("Therefore the answers are 1331 and 1728.", "1331 and 1728"), (r"\frac12", r"\frac12"), ("(C)", "(C)"), ("x+y", "x+y"),
        (r"2\sqrt{3}", r"2\sqrt{3}"), ("We add.\n#### 72", "72"), ("The answer is 3.5 cm. I hope it is correct.", "3.5 cm"),
        ("**Answer:** 5", "5"), ("The answer is $x = 7$.", "$x = 7$"), ("We see three birds and two cats.", None),
        ("The answer is hard to find, so let us look again.", None),
    ],
)  # fmt: skip
def test_where_a_text_without_a_box_says_its_answer(text: str, answer: str | None) -> None:
    assert find_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "text", "outcome"),
    [
        ("5", "The answer is not 5.", UNKNOWN), ("5", "The answer is at most 5.", UNKNOWN),
        ("5", "I doubt it. 5 is wrong.", UNKNOWN),
        ("5", "The answer is 4. Wait, no. The answer is 5.", CORRECT),
        ("4", "The answer is 4. Wait, no. The answer is 5.", WRONG),
        ("5", "The answer to question 3 is 5.", CORRECT), ("3", "The answer to question 3 is 5.", WRONG),
        ("2", "I have 2 ideas but no answer", UNKNOWN), ("C", "The answer is C, not A.", CORRECT),
        ("5", r"\boxed{5} So the final answer is correct.", CORRECT),
        ("5", "The answer is 5.\n\nNote that the answer is odd.", CORRECT),
    ],
)  # fmt: skip
def test_what_a_sentence_says_of_its_answer(
    verifier: MathVerifier, gold: str, text: str, outcome: VerificationOutcome
) -> None:
    assert verifier.verify([Question("", gold, text)])[0].outcome is outcome


@pytest.mark.parametrize("part", ["%", "and ", "= ", "°", "per ", "5 cm ", '"a"', "sin ", "(", "√", "1,", "x_"])
def test_hostile_texts_are_read_in_one_pass(part: str) -> None:
    """The tests' time limit ends one that takes exponential time."""
    assert read("5" + part * (990 // len(part)) + "x") is not None


def test_a_final_answer_after_the_last_box_counts(verifier: MathVerifier) -> None:
    text = r"So \boxed{255}. With the rest, the final answer is $10,455$. I hope it is correct."
    (verdict,) = verifier.verify([Question("", "10455", text)])
    assert (verdict.outcome, verdict.tier) == (CORRECT, "number-text")


@pytest.mark.parametrize(
    ("gold", "bad"),
    [
        (r"2\frac{7}{3}", True), ("1/2x", True), ("2^3^2", True), ("294_5", True), ("1.2.3", True),
        ("0.1415...", True), ("7 pm o'clock 5", True), ("pi/4", False), (r"3\frac{1}{2}", False), ("HHT", False),
        ("8:00", False), (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", False), ("x > 3 or x < -3", False),
    ],
)  # fmt: skip
def test_a_gold_answer_that_says_two_things_is_refused(verifier: MathVerifier, gold: str, bad: bool) -> None:
    assert (verifier.gold_problems([gold])[0] is not None) == bad


def judged(verifier: MathVerifier, made: list[PairOfAnswers]) -> None:
    """No pair that differs is correct, and at least 99% of those that are the same are, kind by kind."""
    verdicts = verifier.verify([Question("", pair.gold, rf"\boxed{{{pair.answer}}}") for pair in made])
    table = list(zip(made, verdicts, strict=True))
    assert [(p.gold, p.answer) for p, verdict in table if not p.same and verdict.outcome is CORRECT] == []
    same = Counter(pair.kind for pair in made if pair.same)
    missed = Counter(p.kind for p, verdict in table if p.same and verdict.outcome is not CORRECT)
    assert all(missed[kind] <= 0.01 * same[kind] for kind in same), [
        (p.gold, p.answer) for p, verdict in table if p.same and verdict.outcome is not CORRECT
    ]


def test_made_pairs(verifier: MathVerifier) -> None:
    judged(verifier, [*pairs(CHEAP, 6500, seed=1), *strangers(1600, seed=2), *pairs(ALGEBRA, 150, seed=3)])


@pytest.mark.slow
def test_a_hundred_thousand_made_pairs(verifier: MathVerifier) -> None:
    judged(verifier, [*pairs(CHEAP, 84_500, seed=4), *strangers(16_000, seed=5), *pairs(ALGEBRA, 1_500, seed=6)])


@given(
    st.text(alphabet="0123456789 .,;:$%°()[]{}\\|\"'^_-+*/=<>!abcxyzABCfracsqrtpmtexboverlineandor½√²π", max_size=120)
)
def test_no_text_breaks_the_grammar(text: str) -> None:
    read(text)
    find_answer(text)
