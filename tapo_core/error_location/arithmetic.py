"""Method "arithmetic": every equation of a step is checked exactly.

It is an upper bound: where it flags a step, the first error is at that step or before it. Where it flags none, it says nothing.
A false equation that the next step takes back is no error.
"""

import re
from collections.abc import Sequence
from fractions import Fraction

from tapo_core.error_location.base import Attempt, Location, Means
from tapo_core.reflection import reflects

METHOD = "arithmetic"
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[-+*/()×÷·])")
_EXPRESSION = r"[-+*/()×÷·\d.\s]+"
_EQUATION = re.compile(rf"({_EXPRESSION})=\s*(?=({_EXPRESSION}))")
#: Values above this are not computed: no step of a rollout needs them, and a model can write anything.
_LIMIT = 10**12
_MAX_DEPTH = 20


class _NotArithmetic(ValueError):
    """The text is not an arithmetic expression that we evaluate."""


def evaluate(expression: str) -> Fraction:
    """The exact value of + - * / over integers and decimals, with brackets; nothing else is understood.

    Raises:
        ValueError: not such an expression, division by zero, or numbers out of range.
    """
    tokens: list[str] = []
    position = 0
    expression = expression.rstrip()
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise _NotArithmetic(expression)
        tokens.append(match[1])
        position = match.end()
    value, end = _sum(tokens, 0, 0)
    if end != len(tokens):
        raise _NotArithmetic(expression)
    return value


def _sum(tokens: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        right, end = _product(tokens, at + 1, depth)
        value = value + right if tokens[at] == "+" else value - right
        at = end
    return _bounded(value), at


def _product(tokens: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    value, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/×÷·":
        right, end = _factor(tokens, at + 1, depth)
        if tokens[at] in "/÷":
            if right == 0:
                raise _NotArithmetic("division by zero")
            value = value / right
        else:
            value = value * right
        at = end
        value = _bounded(value)
    return value, at


def _factor(tokens: Sequence[str], at: int, depth: int) -> tuple[Fraction, int]:
    if at >= len(tokens) or depth > _MAX_DEPTH:
        raise _NotArithmetic("incomplete or too deep")
    token = tokens[at]
    if token == "-":
        value, end = _factor(tokens, at + 1, depth + 1)
        return -value, end
    if token == "(":
        value, end = _sum(tokens, at + 1, depth + 1)
        if end >= len(tokens) or tokens[end] != ")":
            raise _NotArithmetic("unclosed bracket")
        return value, end + 1
    if len(token) > 20 or not token[0].isdigit():
        raise _NotArithmetic(token)
    return Fraction(token), at + 1


def _bounded(value: Fraction) -> Fraction:
    if abs(value.numerator) > _LIMIT or value.denominator > _LIMIT:
        raise _NotArithmetic("number out of range")
    return value


def wrong_equation(step: str) -> str | None:
    """The first false equation of a step as evidence, or None.

    >>> wrong_equation("17 + 9 = 25")
    '17 + 9 = 25, but 17 + 9 is 26'
    """
    for match in _EQUATION.finditer(step):
        left, right = match[1].strip(), match[2].strip().rstrip(".")
        # An equation needs something to compute on one side: "x = 6" states a choice, not a calculation.
        if not re.search(r"\d\s*[-+*/×÷·]\s*\(?\s*-?\d", f"{left} # {right}"):
            continue
        if _continues_a_word(step, match.start(1), left, match.end(2), right):
            continue
        try:
            expected, found = evaluate(left), evaluate(right)
        except ValueError:
            continue
        if not _same(expected, found, right):
            return f"{left} = {right}, but {left} is {expected}"
    return None


def _same(expected: Fraction, found: Fraction, written: str) -> bool:
    """Equal, or equal up to the decimals that were written: 1/3 = 0.333 is no error."""
    decimals = re.search(r"\.(\d+)$", written)
    return abs(expected - found) <= (Fraction(1, 10 ** len(decimals[1])) if decimals else 0)


def _continues_a_word(step: str, start: int, left: str, end: int, right: str) -> bool:
    """Whether the matched characters are a piece of something larger, such as `2x + 3 = 7` or `5 + 3 = 8x`."""
    before = step[:start].rstrip()
    after = step[end:].lstrip()
    glued = bool(before) and (before[-1].isalnum() or before[-1] in "^_\\})%")
    # "so 3 + 4 = 7" begins after a word and a space: that is prose, not a factor.
    prose = bool(before) and before[-1].isalpha() and step[len(before) : start + 1].startswith(" ")
    word = re.search(r"[A-Za-z]+$", before)
    if glued and not (prose and word is not None and len(word[0]) > 1):
        return True
    if not left or not right:
        return True
    return bool(after) and ((after[0].isalpha() and not step[:end][-1].isspace()) or after[0] in "^_\\%")


def locate(attempts: Sequence[Attempt], _means: Means) -> list[Location]:
    """The first step of each attempt that holds a false equation."""
    return [_first_false(attempt) for attempt in attempts]


def _first_false(attempt: Attempt) -> Location:
    for step in attempt.steps:
        evidence = wrong_equation(step.text)
        taken_back = step.index + 1 < len(attempt.steps) and reflects(attempt.steps[step.index + 1].text)
        if evidence is not None and not taken_back:
            return Location(METHOD, step.index, evidence)
    return Location(METHOD, None, None)
