"""The family "chain": chained addition and subtraction. Checking a step is as hard as making it.

The level is the number of operations. All true values stay in 0..30, operands in 1..12.

    Start with 7. Add 12, then subtract 5. What is the result?
"""

import random
import re
from collections.abc import Sequence

from tapo_core.nano.task import (
    LEVELS,
    MAX_NUMBER,
    Problem,
    Reconstruction,
    answer_line,
    apply,
    read_equality,
    slipped,
    stated_answer,
)

MAX_VALUE = 30
MAX_OPERAND = 12
#: How often a step after the first slip slips too, and how often a first slip misreads the operand.
_SLIP_AGAIN = 0.25
_MISREAD = 0.1

_Operation = tuple[str, int]
_WORDS = {"+": "add", "-": "subtract"}
_SIGNS = {word: sign for sign, word in _WORDS.items()}
_START = re.compile(r"Start with (\d+)\. ")
_OPERATION = re.compile(r"(add|subtract) (\d+)", re.IGNORECASE)


def _read(problem: Problem) -> tuple[int, list[_Operation]]:
    """Start value and operations of a problem's text. Raises ValueError for a text of another family."""
    start = _START.match(problem.text)
    if start is None:
        raise ValueError(f"not a problem of the family 'chain': {problem.text!r}")
    return int(start[1]), [(_SIGNS[word.lower()], int(n)) for word, n in _OPERATION.findall(problem.text)]


def _lines(value: int, operations: Sequence[_Operation]) -> list[str]:
    """Right steps from a value on, the answer included."""
    lines = []
    for sign, n in operations:
        result = apply(value, sign, n)
        lines.append(f"{value} {sign} {n} = {result}")
        value = result
    return [*lines, answer_line(value)]


class ChainedArithmetic:
    """See the module's docstring and `TaskFamily`."""

    name = "chain"

    def sample(self, rng: random.Random, level: int) -> Problem:
        """A chain of `level` operations."""
        if level not in LEVELS:
            raise ValueError(f"level must be in {LEVELS[0]}..{LEVELS[-1]}, not {level}")
        value = start = rng.randint(1, MAX_OPERAND)
        words = []
        for _ in range(level):
            signs = [("+", MAX_VALUE - value), ("-", value)]
            sign, room = rng.choice([(s, room) for s, room in signs if room > 0])
            n = rng.randint(1, min(room, MAX_OPERAND))
            value = apply(value, sign, n)
            words.append(f"{_WORDS[sign]} {n}")
        chain = ", then ".join(words)
        text = f"Start with {start}. {chain[0].upper()}{chain[1:]}. What is the result?"
        return Problem(self.name, level, text, str(value))

    def solution(self, problem: Problem) -> list[str]:
        """One line an operation, then the answer."""
        return _lines(*_read(problem))

    def wrong_solution(self, problem: Problem, rng: random.Random) -> tuple[list[str], int]:
        """A wrong sum or a misread operand in a random step, carried forward; later steps may slip too."""
        start, operations = _read(problem)
        while True:
            index = rng.randrange(len(operations))
            value, lines = start, []
            for i, (sign, n) in enumerate(operations):
                if i == index and rng.random() < _MISREAD:
                    n = rng.choice([m for m in range(1, MAX_OPERAND + 1) if m != n])
                    result = apply(value, sign, n)
                else:
                    result = apply(value, sign, n)
                    if i == index or (i > index and rng.random() < _SLIP_AGAIN):
                        result = slipped(result, rng) if 0 <= result <= MAX_NUMBER else result
                lines.append(f"{value} {sign} {n} = {result}")
                value = result
                if not 0 <= value <= MAX_NUMBER:
                    break
            # Two slips can cancel out, and a misread operand can leave the range: such a draw is made again.
            if 0 <= value <= MAX_NUMBER and str(value) != problem.answer:
                return [*lines, answer_line(value)], index

    def reflective_solution(self, problem: Problem, rng: random.Random) -> list[str]:
        """A wrong step, noticed at once."""
        steps, index = self.wrong_solution(problem, rng)
        return self.reconstruct(problem, steps, index).steps()

    def first_error(self, problem: Problem, steps: Sequence[str]) -> int | None:
        """The first line that is not the next right step; a right answer may come early."""
        start, operations = _read(problem)
        expected = _lines(start, operations)
        for i, step in enumerate(steps):
            if i >= len(expected):
                return i
            if step != expected[i]:
                early = i < len(operations) and i == len(steps) - 1 and step == expected[-1]
                return None if early else i
        return None

    def describe_error(self, problem: Problem, steps: Sequence[str], index: int) -> str:
        """Names the right value where the step has a wrong one, else the right step."""
        expected = self._expected(problem, index)
        equality = read_equality(steps[index])
        if equality is not None and equality[0] == expected.rsplit(" = ", 1)[0]:
            return f"Line {index + 1} is wrong: {equality[0]} is {equality[1]}, not {equality[2]}."
        return f"Line {index + 1} is wrong: it should be {expected}."

    def reconstruct(self, problem: Problem, steps: Sequence[str], index: int) -> Reconstruction:
        """Keeps the wrong line, says what is wrong with it, and goes on from the last right value."""
        expected = self._expected(problem, index)
        equality = read_equality(steps[index])
        expression = expected.rsplit(" = ", 1)[0]
        if equality is not None and equality[0] == expression:
            diagnosis = f"Wait, {expression} is not {equality[2]}. Let me redo this step."
        elif stated_answer(expected) is None:
            diagnosis = f"Wait, this step should be {expression}. Let me redo this step."
        else:
            diagnosis = "Wait, this line is wrong. Let me redo this step."
        return Reconstruction(tuple(steps[: index + 1]), diagnosis, tuple(self.solution(problem)[index:] or [expected]))

    def _expected(self, problem: Problem, index: int) -> str:
        """The right step at a place; after the end of the solution, its answer."""
        solution = self.solution(problem)
        return solution[min(index, len(solution) - 1)]
