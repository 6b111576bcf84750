"""What is too large to look at is not looked at: an answer of a few characters can ask for hours of computing.

These guards only save time and workers. What they let through is held by a worker's own limits (see `pool`).
"""

import re

#: Characters of an answer. Real ones have fewer than 200.
MAX_LENGTH = 1000
MAX_DIGITS = 60  #: in one number
MAX_NESTING = 12
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 10_000
MAX_POWERS = 2  #: 2^{3^4} is looked at

_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_EXPONENT = re.compile(r"(?:(?:\^|\*\*)\s*[{(]*\s*[+-]?|(?<=\d)[eE][+-]?)(\d+)")
#: A number to the power of a number to the power of a number of two digits.
_TOWER = re.compile(r"\d\s*(?:\^|\*\*)[\s{(]*\d+[\s{(]*(?:\^|\*\*)[\s{(]*\d{2}")
_FACTORIAL = re.compile(r"(\d+)[\s)}]*!")
_FACTORIAL_OF_FACTORIAL = re.compile(r"![\s)}]*!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{[^{}]*(?:\d{4}|\^)")
_RANGE = re.compile(r"\\(?:sum|prod)(?![A-Za-z])[^\\]{0,60}?\^\s*\{[^{}]*(?:\d{4}|\^)")


def too_large(answer: str, most: int = MAX_LENGTH) -> str | None:
    """Why an answer, or a text of at most `most` characters, is not handed to the symbolic tier; None if it is.

    >>> too_large("2^{10}") is None
    True
    >>> too_large("9^{9^{9^{9}}}")
    'powers of powers'
    """
    if len(answer) > most:
        return f"longer than {most} characters"
    if nesting(answer) > MAX_NESTING:
        return f"brackets nested deeper than {MAX_NESTING}"
    if _DIGITS.search(answer):
        return f"a number of more than {MAX_DIGITS} digits"
    exponents = [int(match[1]) for match in _EXPONENT.finditer(answer)]
    if any(exponent > MAX_EXPONENT for exponent in exponents):
        return f"an exponent above {MAX_EXPONENT}"
    if _TOWER.search(answer) or _powers(answer) > MAX_POWERS:
        return "powers of powers"
    factorials = [int(match[1]) for match in _FACTORIAL.finditer(answer)]
    if any(number > MAX_FACTORIAL for number in factorials) or _FACTORIAL_OF_FACTORIAL.search(answer):
        return f"a factorial above {MAX_FACTORIAL}!"
    if _BINOMIAL.search(answer):
        return "a binomial coefficient of large numbers"
    if _RANGE.search(answer):
        return "a sum or product of thousands of terms"
    return None


def nesting(text: str) -> int:
    """How deep brackets stand in brackets."""
    depth = deepest = 0
    for character in text:
        if character in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "})]":
            depth -= 1
    return deepest


def _powers(text: str) -> int:
    """How deep powers stand in exponents: 1 for x^2 and x^2y^3, 2 for 9^{9^9}."""
    opened: list[bool] = []  #: brackets that are open, and whether each is an exponent
    deepest = chained = 0
    before = ""
    for character in text:
        if character.isspace():
            continue
        if character in "{([":
            opened.append(before == "^")
            chained = 0
        elif character in "})]":
            opened = opened[:-1]
            chained = 0
        elif character == "^":
            chained += 1
            deepest = max(deepest, sum(opened) + chained)
        elif not character.isdigit():
            chained = 0
        before = character
    return deepest
