"""What a task family is: problems, true and false solutions of them, and the truth about any text.

A *step* is one non-empty line of a solution. The last step of a finished solution is ``Answer: \\boxed{<integer>}``.

Example (family "chain", level 2)::

    problem    Start with 7. Add 12, then subtract 5. What is the result?
    solution   7 + 12 = 19
               19 - 5 = 14
               Answer: \\boxed{14}
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

#: Every number that a generator writes is in 0..MAX_NUMBER: each of them is one token of the nano tokenizer.
MAX_NUMBER = 99
LEVELS = (1, 2, 3, 4, 5, 6)

_ANSWER = re.compile(r"Answer: \\boxed\{(-?\d+)\}")
_EQUALITY = re.compile(r"(\d+) ([-+*]) (\d+) = (-?\d+)")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. The text alone determines it: families read their numbers back from there."""

    family: str
    level: int
    text: str
    answer: str  #: the integer, as text


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished solution as an unsure policy writes it, right or wrong, and what went wrong while it was written."""

    steps: tuple[str, ...]
    slips: tuple[int, ...]  #: 0-based steps that went wrong and were not noticed; the first is the first error


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A wrong solution, kept up to its first error, then diagnosed and corrected (TAPO's construction)."""

    kept: tuple[str, ...]  #: steps of the wrong solution, verbatim, the erroneous one included
    diagnosis: str  #: one line in words that says what is wrong
    correction: tuple[str, ...]  #: the right steps from there to the answer

    def steps(self) -> list[str]:
        """All lines: kept, diagnosis, correction."""
        return [*self.kept, self.diagnosis, *self.correction]


class TaskFamily(Protocol):
    """A kind of problem whose every solution step can be judged exactly."""

    @property
    def name(self) -> str:
        """The name under which the family is registered."""
        ...

    def sample(self, rng: random.Random, level: int) -> Problem:
        """A random problem. Raises ValueError for a level outside `LEVELS`."""
        ...

    def solution(self, problem: Problem) -> list[str]:
        """The shortest right solution."""
        ...

    def attempt(self, problem: Problem, slip: float, notice: float, rng: random.Random) -> Attempt:
        """A random attempt.

        Args:
            slip: probability that a step goes wrong, a step that is made again included.
            notice: probability that a wrong step is noticed, diagnosed in words and made again.
        """
        ...

    def first_error(self, problem: Problem, steps: Sequence[str]) -> int | None:
        """0-based index of the first wrong step of any text, None when every step is right (it may be unfinished)."""
        ...

    def describe_error(self, problem: Problem, steps: Sequence[str], index: int) -> str:
        """One sentence on the wrong step `index`: "Line 2 is wrong: 19 - 5 is 14, not 13." (lines count from 1)."""
        ...

    def reconstruct(self, problem: Problem, steps: Sequence[str], index: int) -> Reconstruction:
        """Keep `steps` up to the first wrong step `index`, diagnose it, and correct it."""
        ...


def split_steps(text: str) -> list[str]:
    """The non-empty lines of a text, verbatim."""
    return [line for line in text.split("\n") if line.strip()]


def answer_line(value: int | str) -> str:
    """The step that states the answer."""
    return f"Answer: \\boxed{{{value}}}"


def stated_answer(step: str) -> int | None:
    """The integer of an answer step, None for any other step."""
    match = _ANSWER.fullmatch(step)
    return int(match[1]) if match else None


def read_equality(step: str) -> tuple[str, int, int] | None:
    """``"19 - 5 = 13"`` as ("19 - 5", true value 14, stated value 13); None for any other step."""
    match = _EQUALITY.fullmatch(step)
    if match is None:
        return None
    return f"{match[1]} {match[2]} {match[3]}", apply(int(match[1]), match[2], int(match[3])), int(match[4])


def apply(left: int, operator: str, right: int) -> int:
    """The value of ``left operator right`` for an operator "+", "-" or "*"."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def slipped(value: int, rng: random.Random) -> int:
    """A wrong value near the right one, as a model that half knows its tables writes it; in 0..MAX_NUMBER."""
    distances = (1, -1, 2, -2, 3, -3, 10, -10)
    weights = (6, 6, 3, 3, 1, 1, 2, 2)
    near = [(value + d, w) for d, w in zip(distances, weights, strict=True) if 0 <= value + d <= MAX_NUMBER]
    return rng.choices([v for v, _ in near], [w for _, w in near])[0]
