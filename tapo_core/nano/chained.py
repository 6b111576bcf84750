"""The family "chain": chained addition and subtraction. Checking a step is as hard as making it.

The level is the number of operations. All true values stay in 0..20, operands in 1..9.

    Start with 7. Add 9, then subtract 5. What is the result?
"""

import random
import re
from collections.abc import Sequence

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

MAX_VALUE = 20
MAX_OPERAND = 9
#: How often a slip misreads the operand; the others give a wrong result.
_MISREAD = 0.1

_Operation = tuple[str, int]
_WITHDRAWAL = "Wait, "
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

    def attempt(self, problem: Problem, slip: float, notice: float, rng: random.Random) -> Attempt:
        """Slips are carried forward unless they are noticed, which is at once: on the next line."""
        start, operations = _read(problem)
        while True:
            attempt = _attempt(start, operations, slip, notice, rng)
            if attempt is not None:
                return attempt

    def first_error(self, problem: Problem, steps: Sequence[str]) -> int | None:
        """The first line that is not the next right step and is not withdrawn; a right answer may come early."""
        expected = self.solution(problem)
        place = 0
        wrong: int | None = None  # a wrong line that the next one may withdraw
        for i, step in enumerate(steps):
            if wrong is not None:
                if not step.startswith(_WITHDRAWAL):
                    return wrong
                wrong = None
            elif place < len(expected) and step == expected[place]:
                place += 1
            elif i == len(steps) - 1 and place < len(expected) and step == expected[-1]:
                return None
            else:
                wrong = i
        return wrong

    def describe_error(self, problem: Problem, steps: Sequence[str], index: int) -> str:
        """Names the right value where the step has a wrong one, else the right step."""
        expected = self.solution(problem)[self._place(problem, steps, index)]
        equality = read_equality(steps[index])
        if equality is not None and equality[0] == _expression(expected):
            return f"Line {index + 1} is wrong: {equality[0]} is {equality[1]}, not {equality[2]}."
        return f"Line {index + 1} is wrong: it should be {expected}."

    def reconstruct(self, problem: Problem, steps: Sequence[str], index: int) -> Reconstruction:
        """Keeps the wrong line, says what is wrong with it, and goes on from the last right value."""
        place = self._place(problem, steps, index)
        right = self.solution(problem)[place:]
        return Reconstruction(tuple(steps[: index + 1]), _diagnosis(right[0], steps[index]), tuple(right))

    def _place(self, problem: Problem, steps: Sequence[str], index: int) -> int:
        """The line of the solution that belongs at a place of an attempt; its last line for all that comes after it."""
        expected = self.solution(problem)
        place = 0
        for step in steps[:index]:
            place += place < len(expected) and step == expected[place]
        return min(place, len(expected) - 1)


def _attempt(
    value: int, operations: Sequence[_Operation], slip: float, notice: float, rng: random.Random
) -> Attempt | None:
    """See `ChainedArithmetic.attempt`; None where a slip leads out of 0..MAX_NUMBER."""
    lines: list[str] = []
    slips: list[int] = []
    for sign, n in operations:
        result = apply(value, sign, n)
        if not 0 <= result <= MAX_NUMBER:
            return None
        right = f"{value} {sign} {n} = {result}"
        while rng.random() < slip:
            operand, result = n, apply(value, sign, n)
            if rng.random() < _MISREAD:
                operand = rng.choice([m for m in range(1, MAX_OPERAND + 1) if m != n])
                result = apply(value, sign, operand)
                if not 0 <= result <= MAX_NUMBER:
                    return None
            else:
                result = slipped(result, rng)
            lines.append(f"{value} {sign} {operand} = {result}")
            if rng.random() >= notice:
                slips.append(len(lines) - 1)
                break
            lines.append(_diagnosis(right, lines[-1]))
        else:
            result = apply(value, sign, n)
            lines.append(right)
        value = result
    return Attempt((*lines, answer_line(value)), tuple(slips))


def _expression(line: str) -> str:
    """What is left of the equals sign."""
    return line.rsplit(" = ", 1)[0]


def _diagnosis(expected: str, wrong: str) -> str:
    """The line that withdraws a wrong line where the line `expected` belongs."""
    equality = read_equality(wrong)
    if equality is not None and equality[0] == _expression(expected):
        return f"{_WITHDRAWAL}{equality[0]} is not {equality[2]}. Let me redo this step."
    if stated_answer(expected) is None:
        return f"{_WITHDRAWAL}this step should be {_expression(expected)}. Let me redo this step."
    return f"{_WITHDRAWAL}this line is wrong. Let me redo this step."
