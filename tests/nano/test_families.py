"""The task families: every solution, slip and judgement is checked against the others."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapo_core.errors import ConfigError, DataError
from tapo_core.nano.examples import Shares, draw_attempt
from tapo_core.nano.families import (
    FAMILIES,
    generate_problems,
    get_family,
    problem_id,
    read_queries,
    split_of,
    write_queries,
)
from tapo_core.nano.task import LEVELS, MAX_NUMBER, Problem, split_steps, stated_answer

MIX = [(name, level) for name in sorted(FAMILIES) for level in LEVELS]
CASES = st.tuples(st.sampled_from(MIX), st.integers(0, 2**31))

CHAIN = Problem("chain", 3, "Start with 7. Add 12, then subtract 5, then add 9. What is the result?", "23")
EQUATION = Problem("equation", 3, "Find x: 3 * x + 5 = 26.", "7")


def _numbers(steps: list[str]) -> list[int]:
    return [int(word.strip("-")) for step in steps for word in _digits(step).split()]


def _digits(text: str) -> str:
    return "".join(c if c.isdigit() or c == "-" else " " for c in text.replace(" - ", " "))


@given(CASES)
def test_solutions_are_right(case: tuple[tuple[str, int], int]) -> None:
    (name, level), seed = case
    family = get_family(name)
    problem = family.sample(random.Random(seed), level)
    steps = family.solution(problem)
    assert (problem.family, problem.level) == (name, level)
    assert family.first_error(problem, steps) is None
    assert str(stated_answer(steps[-1])) == problem.answer
    assert all(0 <= number <= MAX_NUMBER for number in _numbers(steps))


def _wrong_attempt(problem: Problem, notice: float, rng: random.Random) -> list[str]:
    return draw_attempt(problem, Shares(slip=0.7, notice=notice, construction=0.0), rng, right=False)


@given(CASES, st.floats(0, 0.9))
def test_wrong_attempts_have_a_first_error(case: tuple[tuple[str, int], int], notice: float) -> None:
    (name, level), seed = case
    family, rng = get_family(name), random.Random(seed)
    problem = family.sample(rng, level)
    steps = _wrong_attempt(problem, notice, rng)
    index = family.first_error(problem, steps)
    assert index is not None
    assert stated_answer(steps[-1]) is not None
    if (
        name == "chain"
    ):  # the guess before a false check of an equation stays open, so its prefix cannot be judged alone
        assert family.first_error(problem, steps[:index]) is None
    assert f"Line {index + 1} is wrong: " in family.describe_error(problem, steps, index)
    assert all(0 <= number <= MAX_NUMBER for number in _numbers(steps))


@given(CASES, st.floats(0, 0.9))
def test_right_attempts_have_no_error_that_was_not_noticed(case: tuple[tuple[str, int], int], notice: float) -> None:
    (name, level), seed = case
    family, rng = get_family(name), random.Random(seed)
    problem = family.sample(rng, level)
    steps = draw_attempt(problem, Shares(slip=0.5, notice=notice, construction=0.0), rng, right=True)
    # Two slips can cancel out, so that a right answer has a wrong step: the one case where they may differ.
    if family.first_error(problem, steps) is None:
        assert [line for line in family.solution(problem) if line not in steps] == []
    assert str(stated_answer(steps[-1])) == problem.answer


@given(CASES)
def test_an_attempt_that_never_slips_is_the_solution(case: tuple[tuple[str, int], int]) -> None:
    (name, level), seed = case
    family, rng = get_family(name), random.Random(seed)
    problem = family.sample(rng, level)
    attempt = family.attempt(problem, 0.0, 0.5, rng)
    assert (list(attempt.steps), attempt.slips) == (family.solution(problem), ())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_rates_are_what_they_say(name: str) -> None:
    family, rng = get_family(name), random.Random(0)
    attempts = []
    for _ in range(600):
        problem = family.sample(rng, 3)
        attempts.append((problem, family.attempt(problem, 0.4, 0.5, rng).steps))
    withdrawn = sum(any(step.startswith(("Wait, ", "That gives ")) for step in steps) for _, steps in attempts) / 600
    right = sum(str(stated_answer(steps[-1])) == problem.answer for problem, steps in attempts) / 600
    # Chain: each of 3 steps ends right with 0.6 / (1 - 0.4 * 0.5) = 0.75, and is withdrawn at least once with 0.4 * 0.5.
    # (Right ones are a little more: two slips can cancel out, and an attempt that leaves the range is drawn again.)
    # Equation: the first guess is withdrawn with 0.4 * 0.5; its one judgement ends right in more than 0.6 + 0.2 * 0.6.
    expected = {"chain": (1 - 0.8**3, 0.75**3), "equation": (0.4 * 0.5, 0.79)}[name]
    assert (withdrawn, right) == pytest.approx(expected, abs=0.1)


@given(CASES)
def test_reconstructions_keep_the_error_and_end_right(case: tuple[tuple[str, int], int]) -> None:
    (name, level), seed = case
    family, rng = get_family(name), random.Random(seed)
    problem = family.sample(rng, level)
    wrong = _wrong_attempt(problem, 0.3, rng)
    index = family.first_error(problem, wrong)
    assert index is not None
    made = family.reconstruct(problem, wrong, index)
    assert index < len(made.kept) < len(wrong) or index == len(wrong) - 1
    assert list(made.kept) == wrong[: len(made.kept)]
    assert made.diagnosis.startswith(("Wait, ", "That gives "))
    assert family.first_error(problem, made.steps()) is None or name == "equation"
    assert str(stated_answer(made.steps()[-1])) == problem.answer


@given(CASES, st.text(max_size=60))
def test_any_text_can_be_judged_and_reconstructed(case: tuple[tuple[str, int], int], text: str) -> None:
    (name, level), seed = case
    family, rng = get_family(name), random.Random(seed)
    problem = family.sample(rng, level)
    lines = [*_wrong_attempt(problem, 0.0, rng), *family.attempt(problem, 0.5, 0.5, rng).steps, *split_steps(text)]
    steps = rng.choices(lines, k=rng.randint(1, 8))
    index = family.first_error(problem, steps)
    if index is not None:
        assert 0 <= index < len(steps)
        assert family.describe_error(problem, steps, index)
        assert str(stated_answer(family.reconstruct(problem, steps, index).steps()[-1])) == problem.answer


@pytest.mark.parametrize(
    ("text", "index", "sentence"),
    [
        ("7 + 12 = 19\n19 - 5 = 14\n14 + 9 = 23\nAnswer: \\boxed{23}", None, None),
        ("7 + 12 = 19\n19 - 5 = 14", None, None),  # unfinished, but nothing is wrong
        ("7 + 12 = 19\nAnswer: \\boxed{23}", None, None),  # right, though in a hurry
        ("7 + 12 = 19\n19 - 5 = 13\n13 + 9 = 22", 1, "Line 2 is wrong: 19 - 5 is 14, not 13."),
        ("7 + 12 = 18\nWait, 7 + 12 is not 18. Let me redo this step.\n7 + 12 = 19", None, None),  # withdrawn in time
        ("7 + 12 = 18\nWait, hm.\n7 + 12 = 17\n17 - 5 = 12", 2, "Line 3 is wrong: 7 + 12 is 19, not 17."),
        ("7 + 12 = 19\nWait, 7 + 12 is not 19.", 1, "Line 2 is wrong: it should be 19 - 5 = 14."),  # a right line was
        ("7 + 12 = 19\n19 - 6 = 13", 1, "Line 2 is wrong: it should be 19 - 5 = 14."),
        ("7 + 12 = 19\nAnswer: \\boxed{19}", 1, "Line 2 is wrong: it should be 19 - 5 = 14."),
        ("7 + 12 = 19\n19 - 5 = 14\n14 + 9 = 23\nAnswer: \\boxed{24}", 3, "Line 4 is wrong: it should be Answer: \\boxed{23}."),
        ("7 + 12 = 19\n19 - 5 = 14\n14 + 9 = 23\nAnswer: \\boxed{23}\nhm", 4, "Line 5 is wrong: it should be Answer: \\boxed{23}."),  # noqa: E501
    ],
)  # fmt: skip
def test_first_error_of_a_chain(text: str, index: int | None, sentence: str | None) -> None:
    _check_first_error(CHAIN, text, index, sentence)


REJECTED = "Try x = 6.\n3 * 6 = 18\n18 + 5 = 23\nThat gives 23, not 26: x = 6 is too small.\n"


@pytest.mark.parametrize(
    ("text", "index", "sentence"),
    [
        ("Try x = 7.\n3 * 7 = 21\n21 + 5 = 26\nAnswer: \\boxed{7}", None, None),
        (REJECTED + "Try x = 7.\n3 * 7 = 21\n21 + 5 = 26\nAnswer: \\boxed{7}", None, None),  # a rejected guess is no error
        ("Try x = 6.\n3 * 6 = 18\n18 + 5 = 23\nAnswer: \\boxed{6}", 0, "Line 1 is wrong: x = 6 gives 23, not 26."),
        (REJECTED + "Try x = 8.\n3 * 8 = 24\n24 + 5 = 29\nAnswer: \\boxed{8}", 4, "Line 5 is wrong: x = 8 gives 29, not 26."),
        ("Try x = 6.\n3 * 6 = 21\n21 + 5 = 26\nAnswer: \\boxed{6}", 1, "Line 2 is wrong: 3 * 6 is 18, not 21."),
        ("Try x = 6.\n3 * 6 = 18\n18 + 5 = 26\nAnswer: \\boxed{6}", 2, "Line 3 is wrong: 18 + 5 is 23, not 26."),
        ("Try x = 7.\n3 * 7 = 21\n21 + 5 = 26\nThat gives 26, not 26: x = 7 is too large.", 3, "Line 4 is wrong: x = 7 gives 26."),  # noqa: E501
    ],
)  # fmt: skip
def test_first_error_of_an_equation(text: str, index: int | None, sentence: str | None) -> None:
    _check_first_error(EQUATION, text, index, sentence)


def _check_first_error(problem: Problem, text: str, index: int | None, sentence: str | None) -> None:
    family, steps = get_family(problem.family), split_steps(text)
    assert family.first_error(problem, steps) == index
    if index is not None:
        assert family.describe_error(problem, steps, index) == sentence


def test_reconstruction_of_a_chain_reads_as_in_the_brief() -> None:
    steps = split_steps("7 + 12 = 19\n19 - 5 = 13\n13 + 9 = 22\nAnswer: \\boxed{22}")
    assert get_family("chain").reconstruct(CHAIN, steps, 1).steps() == [
        "7 + 12 = 19",
        "19 - 5 = 13",
        "Wait, 19 - 5 is not 13. Let me redo this step.",
        "19 - 5 = 14",
        "14 + 9 = 23",
        "Answer: \\boxed{23}",
    ]


def test_reconstruction_of_an_unnoticed_guess_keeps_its_check() -> None:
    steps = split_steps("Try x = 6.\n3 * 6 = 18\n18 + 5 = 23\nAnswer: \\boxed{6}")
    made = get_family("equation").reconstruct(EQUATION, steps, 0)
    assert made.kept == ("Try x = 6.", "3 * 6 = 18", "18 + 5 = 23")
    assert made.diagnosis == "That gives 23, not 26: x = 6 is too small."


def test_reconstruction_of_a_false_check_redoes_it() -> None:
    steps = split_steps("Try x = 6.\n3 * 6 = 21\n21 + 5 = 26\nAnswer: \\boxed{6}")
    made = get_family("equation").reconstruct(EQUATION, steps, 1)
    assert made.kept == ("Try x = 6.", "3 * 6 = 21")
    assert made.correction[:3] == ("3 * 6 = 18", "18 + 5 = 23", "That gives 23, not 26: x = 6 is too small.")


def test_generation_is_deterministic_and_the_splits_are_disjoint() -> None:
    train = generate_problems(MIX, 480, seed=3, split="train")
    held_out = generate_problems(MIX, 240, seed=3, split="held_out")
    assert train == generate_problems(MIX, 480, seed=3, split="train")
    assert train != generate_problems(MIX, 480, seed=4, split="train")
    assert len({p.text for p in train}) == 480
    # Other seeds cannot mix the splits either: the text decides.
    other = generate_problems(MIX, 480, seed=9, split="train")
    assert not {p.text for p in held_out} & {p.text for p in [*train, *other]}
    assert {split_of(p.text) for p in held_out} == {"held_out"}
    assert len({problem_id(p) for p in [*train, *held_out]}) == 720


def test_levels_are_shared_out_evenly() -> None:
    problems = generate_problems([("chain", 2), ("equation", 5)], 10, seed=0, split="train")
    assert [(p.family, p.level) for p in problems[:2]] == [("chain", 2), ("equation", 5)]
    assert sum(p.family == "chain" for p in problems) == 5


@pytest.mark.parametrize(
    ("mix", "n", "message"),
    [
        ([], 1, "no .family, level. pair"),
        ([("sudoku", 1)], 1, "unknown task family 'sudoku'; known: chain, equation"),
        ([("chain", 7)], 1, "level must be in 1..6, not 7"),
        ([("equation", 7)], 1, "level must be in 1..6, not 7"),
        ([("equation", 1)], 5000, "too few different problems of level 1"),
    ],
)
def test_impossible_requests_say_why(mix: list[tuple[str, int]], n: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generate_problems(mix, n, seed=0, split="train")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_text_of_another_family_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a problem of the family"):
        get_family(name).solution(Problem(name, 1, "Prove it.", "1"))


def test_queries_round_trip(tmp_path: Path) -> None:
    problems = generate_problems(MIX, 24, seed=0, split="train")
    write_queries(problems, tmp_path / "q.jsonl")
    assert read_queries(tmp_path / "q.jsonl") == problems


def test_a_bad_query_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"problem": "1 + 1"}\n')
    with pytest.raises(DataError, match=r"q\.jsonl, row 1: not a problem"):
        read_queries(tmp_path / "q.jsonl")
