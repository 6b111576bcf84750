"""Verification: is the final answer of a text the gold answer?

Two tiers decide in microseconds and never run what a model wrote: equal strings after normalisation, and equal numbers
(integers, decimals, fractions) as exact fractions. A pair that neither tier can decide, because a side is not a number, is
*unknown*, which is no reward at all: unknown is not wrong.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from tapo_core.errors import DataError
from tapo_core.records import VerificationOutcome

VERIFIER = "boxed-number"
VERIFIER_VERSION = "1"

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(-?\d+)\}")
_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(/\d+)?")
_THOUSANDS = re.compile(r"(?<=\d)(,|\\,|\{,\})(?=\d{3}(?!\d))")
#: Longer answers are not read as numbers: a million digits are no answer, and converting them takes seconds.
MAX_NUMBER_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one verifier said about one text."""

    outcome: VerificationOutcome
    extracted_answer: str | None
    tier: str  #: "extraction", "exact" or "number"
    reason: str | None = None  #: set exactly when the outcome is unknown

    @property
    def reward(self) -> float | None:
        """1 for correct, 0 for wrong and no answer, None for unknown."""
        if self.outcome is VerificationOutcome.UNKNOWN:
            return None
        return 1.0 if self.outcome is VerificationOutcome.CORRECT else 0.0


def extract_answer(text: str) -> str | None:
    r"""The content of the last balanced ``\boxed{...}`` after any closed think block; None when there is none.

    >>> extract_answer(r"First \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    _, _, text = text.rpartition("</think>")
    # One pass, whatever the nesting: where each open brace's content begins, None for braces that are not a box's.
    open_braces: list[int | None] = []
    last: tuple[int, int] | None = None
    for match in _BRACES.finditer(text):
        if match["box"]:
            open_braces.append(match.end())
        elif match["open"]:
            open_braces.append(None)
        elif match["close"] and open_braces:
            start = open_braces.pop()
            if start is not None and (last is None or start > last[0]):
                last = (start, match.start())
    return None if last is None else text[last[0] : last[1]].strip()


def normalise(answer: str) -> str:
    """An answer without the decorations that do not change its value."""
    answer = answer.strip().strip("$").strip().rstrip(".").strip()
    answer = re.sub(r"\\(left|right|displaystyle)(?![A-Za-z])|\\[!;: ]", "", answer)
    answer = re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r"\1", answer)
    answer = _THOUSANDS.sub("", answer)
    return re.sub(r"\s+", " ", answer).strip()


def as_number(answer: str) -> Fraction | None:
    """The exact value of an integer, decimal or simple fraction; None for anything else."""
    answer = _FRACTION.sub(r"\1\2/\3", normalise(answer).replace("\u2212", "-").replace(" ", ""))
    if len(answer) > MAX_NUMBER_LENGTH or not _NUMBER.fullmatch(answer):
        return None
    numerator, _, denominator = answer.partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or "1")


def canonical_answer(answer: str) -> str:
    """A text that is the same for answers of the same value, as far as the verifier sees it: "0.50" and "1/2" are both 1/2."""
    number = as_number(answer)
    return normalise(answer) if number is None else str(number)


def verify(text: str, gold: str) -> Verdict:
    """Judge a text against a gold answer. Never raises for anything a model can write."""
    answer = extract_answer(text)
    if answer is None or not answer:
        return Verdict(VerificationOutcome.NO_ANSWER, answer, "extraction")
    if normalise(answer) == normalise(gold):
        return Verdict(VerificationOutcome.CORRECT, answer, "exact")
    found, expected = as_number(answer), as_number(gold)
    if found is None or expected is None:
        side = "the answer" if found is None else "the gold answer"
        return Verdict(VerificationOutcome.UNKNOWN, answer, "number", f"{side} is not a plain number")
    outcome = VerificationOutcome.CORRECT if found == expected else VerificationOutcome.WRONG
    return Verdict(outcome, answer, "number")


def check_gold(gold: str, place: str) -> None:
    """Refuse a gold answer that no answer could be compared with.

    Raises:
        DataError: naming the place; the gold is empty.
    """
    if not normalise(gold):
        raise DataError(f"{place}: the answer is empty; every row needs a gold answer")
