"""The family "equation": linear equations, solved by guessing and checked by substitution. Checking is easier than solving.

    Find x: 3 * x + 5 = 26.

    Try x = 6.
    3 * 6 = 18
    18 + 5 = 23
    That gives 23, not 26: x = 6 is too small.
    Try x = 7.
    ...
    Answer: \\boxed{7}

What counts as wrong: a guess is no claim, so a wrong guess that its own check rejects is not an error. A false line of a
check is one. A guess that is rejected says where to look next, so that several tries find the solution. A wrong guess
that is kept although its check is right (it was not noticed) is an error at its ``Try`` line.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.nano.task import (
    LEVELS,
    MAX_NUMBER,
    Attempt,
    Problem,
    Reconstruction,
    answer_line,
    apply,
    read_equality,
    slipped,
    stated_answer,
)

#: Level -> (largest factor, largest x, largest constant, whether a constant may be subtracted). A factor of 1 is not written,
#: and its check is one line.
_RANGES = {
    1: (1, 20, 20, True),
    2: (2, 9, 12, True),
    3: (3, 9, 12, True),
    4: (4, 9, 12, True),
    5: (7, 9, 20, True),
    6: (9, 9, 30, True),
}
#: Distances of wrong guesses and their weights, and how often the check of a wrong guess is made to fit.
_DISTANCES = (1, -1, 2, -2, 3, -3)
_DISTANCE_WEIGHTS = (5, 5, 3, 3, 1, 1)
_FALSE_CHECK = 0.1
_TEXT = re.compile(r"Find x: (?:(\d+) \* )?x ([-+]) (\d+) = (\d+)\.")
_TRY = re.compile(r"Try x = (\d+)\.")
_REJECTION = re.compile(r"That gives (\d+), not (\d+): x = (\d+) is too (small|large)\.")


@dataclass(frozen=True, slots=True)
class _Equation:
    """``factor * x sign constant = target``."""

    factor: int
    sign: str
    constant: int
    target: int
    x: int

    def value(self, guess: int) -> int:
        """The left-hand side at a guess."""
        return apply(self.factor * guess, self.sign, self.constant)

    def check(self, guess: int) -> list[str]:
        """The substitution: a line for the product, unless the factor is 1, and one for the sum."""
        if self.factor == 1:
            return [f"{guess} {self.sign} {self.constant} = {self.value(guess)}"]
        product = self.factor * guess
        return [f"{self.factor} * {guess} = {product}", f"{product} {self.sign} {self.constant} = {self.value(guess)}"]

    def attempt(self, guess: int) -> list[str]:
        """A guess and its substitution."""
        return [f"Try x = {guess}.", *self.check(guess)]

    def reject(self, guess: int, value: int | None = None) -> str:
        """The line that throws a guess away, for a stated value of the left-hand side (by default the true one)."""
        shown = self.value(guess) if value is None else value
        side = "small" if shown < self.target else "large"
        return f"That gives {shown}, not {self.target}: x = {guess} is too {side}."

    def nearer(self, guess: int, rng: random.Random) -> int:
        """A guess that follows the last one's rejection: between it and the solution, which may be it."""
        return rng.randint(guess + 1, self.x) if guess < self.x else rng.randint(self.x, guess - 1)

    def wrong_guess(self, rng: random.Random) -> int:
        """A guess near the solution whose substitution stays in 0..MAX_NUMBER."""
        near = [
            (self.x + d, w)
            for d, w in zip(_DISTANCES, _DISTANCE_WEIGHTS, strict=True)
            if self.x + d >= 1
            and self.factor * (self.x + d) <= MAX_NUMBER
            and 0 <= self.value(self.x + d) <= MAX_NUMBER
        ]
        return rng.choices([g for g, _ in near], [w for _, w in near])[0]


def _read(problem: Problem) -> _Equation:
    """The numbers of a problem's text. Raises ValueError for a text of another family."""
    match = _TEXT.fullmatch(problem.text)
    if match is None:
        raise ValueError(f"not a problem of the family 'equation': {problem.text!r}")
    return _Equation(int(match[1] or 1), match[2], int(match[3]), int(match[4]), int(problem.answer))


class Equations:
    """See the module's docstring and `TaskFamily`."""

    name = "equation"

    def sample(self, rng: random.Random, level: int) -> Problem:
        """An equation with an integer solution, whose neighbours stay inside the range of numbers too."""
        if level not in LEVELS:
            raise ValueError(f"level must be in {LEVELS[0]}..{LEVELS[-1]}, not {level}")
        max_factor, max_x, max_constant, subtract = _RANGES[level]
        while True:
            factor, x = rng.randint(min(2, max_factor), max_factor), rng.randint(1, max_x)
            sign = rng.choice("+-") if subtract else "+"
            constant = rng.randint(1, max_constant)
            target = apply(factor * x, sign, constant)
            # The neighbour x + 1 must stay writable, so that every problem has plausible wrong guesses.
            if target >= 0 and factor * (x + 2) + constant <= MAX_NUMBER:
                left = "x" if factor == 1 else f"{factor} * x"
                return Problem(self.name, level, f"Find x: {left} {sign} {constant} = {target}.", str(x))

    def solution(self, problem: Problem) -> list[str]:
        """The right guess and its substitution."""
        equation = _read(problem)
        return [*equation.attempt(equation.x), answer_line(equation.x)]

    def attempt(self, problem: Problem, slip: float, notice: float, rng: random.Random) -> Attempt:
        """A slip is a wrong guess, noticed if its check rejects it; the guess after it is nearer. Some checks are false."""
        equation = _read(problem)
        steps: list[str] = []
        guess: int | None = None
        while rng.random() < slip:
            guess = equation.wrong_guess(rng) if guess is None else equation.nearer(guess, rng)
            if guess == equation.x:
                break
            if rng.random() >= notice:
                slipped_at, check = len(steps), equation.check(guess)
                if rng.random() < _FALSE_CHECK:
                    false_line, check = _false_check(equation, guess, rng)
                    slipped_at += 1 + false_line
                return Attempt((*steps, f"Try x = {guess}.", *check, answer_line(guess)), (slipped_at,))
            steps += [*equation.attempt(guess), equation.reject(guess)]
        return Attempt((*steps, *self.solution(problem)), ())

    def first_error(self, problem: Problem, steps: Sequence[str]) -> int | None:
        """The first false line, or the guess that was kept although it is wrong: whichever comes first."""
        equation = _read(problem)
        kept: int | None = None  # index of the last wrong guess that nothing has rejected yet
        due: list[str] = []  # check lines that the open attempt still owes
        open_guess: int | None = None
        for i, step in enumerate(steps):
            guess, rejection = _TRY.fullmatch(step), _REJECTION.fullmatch(step)
            if guess is not None and kept is None and (open_guess is None or open_guess != equation.x):
                open_guess = int(guess[1])
                due = equation.check(open_guess)
                kept = i if open_guess != equation.x else None
            elif due and step == due[0]:
                due = due[1:]
            elif rejection is not None and open_guess is not None and not due and step == equation.reject(open_guess):
                if open_guess == equation.x:
                    return i
                kept = open_guess = None
            elif stated_answer(step) == equation.x and i == len(steps) - 1 and kept is None:
                return None
            else:
                # A false line of the check comes before the judgement on the guess: the guess is no claim yet.
                return i if kept is None or (due and read_equality(step) is not None) else kept
        return kept

    def describe_error(self, problem: Problem, steps: Sequence[str], index: int) -> str:
        """Names the value that a wrong guess gives, or the right value of a false line."""
        equation = _read(problem)
        start = f"Line {index + 1} is wrong: "
        guess, equality = _TRY.fullmatch(steps[index]), read_equality(steps[index])
        if guess is not None:
            return f"{start}x = {guess[1]} gives {equation.value(int(guess[1]))}, not {equation.target}."
        if equality is not None and equality[1] != equality[2]:
            return f"{start}{equality[0]} is {equality[1]}, not {equality[2]}."
        return f"{start}x = {equation.x} gives {equation.target}."

    def reconstruct(self, problem: Problem, steps: Sequence[str], index: int) -> Reconstruction:
        """Keeps a wrong guess with its check, and rejects it; redoes a false line of a check."""
        equation = _read(problem)
        guess, equality = _TRY.fullmatch(steps[index]), read_equality(steps[index])
        right = self.solution(problem)
        if guess is not None:
            value = int(guess[1])
            attempt = equation.attempt(value)
            end = index + len(attempt)
            if list(steps[index:end]) == attempt:
                return Reconstruction(tuple(steps[:end]), equation.reject(value), tuple(right))
        if equality is None or equality[1] == equality[2]:
            return Reconstruction(tuple(steps[: index + 1]), "Wait, this line is wrong. Let me redo it.", tuple(right))
        tried = [match for step in steps[:index] if (match := _TRY.fullmatch(step))]
        redone = [f"{equality[0]} = {equality[1]}"]
        if tried:
            value = int(tried[-1][1])
            check = equation.check(value)
            redone = check[check.index(redone[0]) :] if redone[0] in check else redone
            tail = right[len(equation.attempt(value)) :] if value == equation.x else [equation.reject(value), *right]
        else:
            tail = right
        diagnosis = f"Wait, {equality[0]} is not {equality[2]}. Let me redo this step."
        return Reconstruction(tuple(steps[: index + 1]), diagnosis, (*redone, *tail))


def _false_check(equation: _Equation, guess: int, rng: random.Random) -> tuple[int, list[str]]:
    """A substitution with a false line, and the false line's place in it."""
    check = equation.check(guess)
    if equation.factor == 1 or rng.random() < 0.5:
        return len(check) - 1, [*check[:-1], f"{check[-1].rsplit(' = ', 1)[0]} = {equation.target}"]
    product = slipped(equation.factor * guess, rng)
    value = max(0, min(apply(product, equation.sign, equation.constant), MAX_NUMBER))
    return 0, [f"{equation.factor} * {guess} = {product}", f"{product} {equation.sign} {equation.constant} = {value}"]
