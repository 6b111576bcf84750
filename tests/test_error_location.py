"""The methods of error location, each by itself; `tests/flows` runs them on the real engines."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.config import LocateErrorConfig
from tapo_core.error_location import METHODS, Attempt, Location, Means, Question, Reply
from tapo_core.error_location.arithmetic import evaluate, wrong_equation
from tapo_core.error_location.policy import Vote, VoteOutcome, majority, read_vote
from tapo_core.nano.families import FAMILIES, get_family
from tapo_core.nano.task import Problem, answer_line
from tapo_core.records import FinishReason
from tapo_core.steps import split_steps

CHAIN = "Start with 7. Add 12, then subtract 5, then add 9. What is the result?"
WRONG = "7 + 12 = 19\n19 - 5 = 13\n13 + 9 = 22\nAnswer: \\boxed{22}"
RIGHT = "7 + 12 = 19\n19 - 5 = 14\n14 + 9 = 23\nAnswer: \\boxed{23}"


def an_attempt(text: str, problem: str = CHAIN, gold: str = "23", family: str | None = "chain") -> Attempt:
    ids = list(text.encode())
    return Attempt("a", problem, gold, family, 3, text, split_steps(text), RIGHT, [1, 2], ids)


def means(
    ask: Callable[[Sequence[Question]], list[Reply | None]] | None = None,
    found: Location | None = None,
    **settings: object,
) -> Means:
    def nobody(questions: Sequence[Question]) -> list[Reply | None]:
        assert not questions, "a method that only reads asked the policy"
        return []

    return Means(
        config=LocateErrorConfig.model_validate(settings),
        max_new_tokens=200,
        ask=ask or nobody,
        seed=lambda attempt, purpose, number: hash((attempt.name, purpose, number)) & 0xFFFF,
        is_correct=lambda attempt, text: answer_line(attempt.gold) in text,
        decode=lambda ids: bytes(ids).decode("utf-8", "replace"),
        found={} if found is None else {"a": found},
    )


def locate(method: str, text: str, **attempt: str) -> Location:
    (found,) = METHODS[method]([an_attempt(text, **attempt)], means())
    return found


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
    found = locate("arithmetic", "7 + 12 = 19\n\n19 - 5 = 13\n13 + 9 = 23")
    assert (found.method, found.step) == ("arithmetic", 1)
    assert found.evidence == "19 - 5 = 13, but 19 - 5 is 14"
    taken_back = "7 + 12 = 18\nWait, 7 + 12 is not 18. Let me redo this step.\n7 + 12 = 19\n19 - 5 = 13\nWait."
    assert locate("arithmetic", taken_back).step is None
    assert locate("arithmetic", taken_back.removesuffix("\nWait.")).step == 3
    nothing = locate("arithmetic", "I think it is 4.")
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


@given(st.text(max_size=200), st.sampled_from(["arithmetic", "task"]))
def test_no_text_can_break_a_method(text: str, method: str) -> None:
    locate(method, text)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_task_method_finds_what_the_generator_did(name: str) -> None:
    """The generator notes its own slips while it writes; the rules see the text alone."""
    family, rng, right, n = get_family(name), random.Random(0), 0, 500
    for _ in range(n):
        problem: Problem = family.sample(rng, rng.choice([2, 3, 4]))
        while True:
            attempt = family.attempt(problem, 0.5, 0.3, rng)
            if attempt.slips and attempt.steps[-1] != answer_line(problem.answer):
                break
        text = "\n".join(attempt.steps)
        found = locate("task", text, problem=problem.text, gold=problem.answer, family=name)
        right += found.step == attempt.slips[0]
    assert right >= 0.99 * n


def test_the_task_method_says_when_it_knows_no_rules() -> None:
    foreign = locate("task", WRONG, family="algebra")
    assert (foreign.step, foreign.evidence) == (None, "no rules for the family 'algebra'")
    unlike = locate("task", WRONG, problem="Prove it.")
    assert unlike.step is None
    assert "not a problem of the family 'chain'" in (unlike.evidence or "")


STEPS = WRONG.split("\n")


@pytest.mark.parametrize(
    ("output", "vote"),
    [
        ("1 right\n2 wrong\n<step>2</step>\n<quote>19 - 5 = 13</quote>", Vote(VoteOutcome.COUNTED, 1)),
        ("<step>2</step><quote> 19 -  5 = 13 </quote>", Vote(VoteOutcome.COUNTED, 1)),
        ("<step>3</step><quote>19 - 5 = 13</quote>", Vote(VoteOutcome.COUNTED, 1)),  # miscounted: the quote decides
        ("<step>2</step><quote>19 - 5 = 14</quote>", Vote(VoteOutcome.QUOTE_MISMATCH, None)),  # repaired while quoting
        ("<step>2</step><quote></quote>", Vote(VoteOutcome.QUOTE_MISMATCH, None)),
        ("<step>5</step><quote>19 - 5 = 13</quote>", Vote(VoteOutcome.NO_SUCH_STEP, None)),
        ("<step>0</step><quote>19 - 5 = 13</quote>", Vote(VoteOutcome.NO_SUCH_STEP, None)),
        ("step 2 is wrong", Vote(VoteOutcome.NO_TAG, None)),
        ("<step>1</step><step>2</step><quote>19 - 5 = 13</quote>", Vote(VoteOutcome.NO_TAG, None)),
        ("<step>99999999999</step><quote>x</quote>", Vote(VoteOutcome.NO_TAG, None)),
    ],
)
def test_a_vote_needs_a_step_and_its_words(output: str, vote: Vote) -> None:
    assert read_vote(output, STEPS) == vote


@given(st.text(max_size=200))
def test_no_answer_can_break_the_reader(output: str) -> None:
    read_vote(output, STEPS)
    assert read_vote(f"<step>2</step><quote>{output}</quote>", STEPS).step in (None, 0, 1, 2, 3)


def test_the_majority_counts_and_votes_that_do_not_count_weigh_against_it() -> None:
    counted = [Vote(VoteOutcome.COUNTED, step) for step in (2, 1, 2, 1)]
    assert majority([*counted, Vote(VoteOutcome.NO_TAG, None)]) == (1, 0.4)  # of equals the earliest
    assert majority([Vote(VoteOutcome.NO_TAG, None)]) == (None, 0.0)


def test_the_policy_is_asked_with_numbered_steps_and_the_sibling() -> None:
    asked: list[Question] = []
    outputs = ["<step>2</step><quote>19 - 5 = 13</quote>"] * 2 + ["<step>1</step><quote>7 + 12 = 19</quote>", "eh"]

    def ask(questions: Sequence[Question]) -> list[Reply | None]:
        asked.extend(questions)
        return [*(Reply(output, FinishReason.STOP) for output in outputs), None]

    (found,) = METHODS["policy"]([an_attempt(WRONG)], means(ask))
    assert (found.step, found.agreement, found.evidence) == (1, 0.4, "19 - 5 = 13")
    assert [vote["outcome"] for vote in found.votes] == ["counted", "counted", "counted", "no_tag", "not_asked"]
    assert [vote["seed"] for vote in found.votes] == [question.seed for question in asked]
    assert len({question.seed for question in asked}) == 5
    assert all(CHAIN in (q.message or "") and RIGHT in (q.message or "") for q in asked)
    assert "2: 19 - 5 = 13\n" in (asked[0].message or "")
    assert found.prompt_version == "locate_error_short_v1"
    assert len(found.prompt_sha256 or "") == 64


def continued(rates: dict[int, float], text: str = WRONG) -> Callable[[Sequence[Question]], list[Reply | None]]:
    """A policy whose continuations are right at a rate that depends on how many steps it was given."""
    given: dict[int, int] = {}

    def ask(questions: Sequence[Question]) -> list[Reply | None]:
        replies: list[Reply | None] = []
        for question in questions:
            kept = bytes(question.token_ids[2:]).decode()
            assert text.startswith(kept)
            assert question.max_new_tokens == 200 - len(kept)
            n = len(split_steps(kept))
            given[n] = given.get(n, 0) + 1
            right = given[n] <= round(rates[n] * 8)
            replies.append(Reply("\n" + answer_line("23" if right else "22"), FinishReason.STOP))
        return replies

    return ask


@pytest.mark.parametrize(
    ("earlier", "rates", "step"),
    [
        (1, {0: 1.0, 1: 0.75, 2: 0.0, 3: 0.0}, 1),  # confirmed: continuations stop being right there
        (2, {1: 0.75, 2: 0.0, 3: 0.0, 4: 0.0}, 1),  # corrected by one
        (1, {0: 0.5, 1: 0.5, 2: 0.5, 3: 0.5}, None),  # nothing falls
        (0, {0: 0.5, 1: 0.25, 2: 0.0}, 0),  # of equal falls the earliest
    ],
)
def test_continuations_fall_at_the_error(earlier: int, rates: dict[int, float], step: int | None) -> None:
    hint = Location("arithmetic", earlier, "said so")
    (found,) = METHODS["continuation"]([an_attempt(WRONG)], means(continued(rates), hint))
    assert found.step == step
    assert [tally["kept_steps"] for tally in found.votes] == sorted(rates)
    assert all(tally["n"] == 8 and len(tally["outputs"]) == 8 for tally in found.votes)
    first = min(rates)
    assert f"{round(8 * rates[first])} of 8 after {first} steps" in (found.evidence or "")


def test_continuation_needs_something_to_check() -> None:
    (found,) = METHODS["continuation"]([an_attempt(WRONG)], means())
    assert (found.step, found.votes) == (None, ())


def test_unknown_verdicts_count_neither_way() -> None:
    hint = Location("task", 1, "said so")
    unsure = means(continued({0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0}), hint)
    unsure = replace(unsure, is_correct=lambda _attempt, _text: None)
    (found,) = METHODS["continuation"]([an_attempt(WRONG)], unsure)
    assert found.step is None
    assert "0 of 0 after 0 steps" in (found.evidence or "")
