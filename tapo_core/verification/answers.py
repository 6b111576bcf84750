"""Where a text has its answer: in its last box. And the numbers that can be read at a glance."""

import re
from fractions import Fraction
from typing import NamedTuple

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
_PLAIN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}\\]*)\}")
#: What may stand between the boxes of a list: signs, LaTeX's spaces and limits, a word or two, and a name that is set equal.
_JOINT = re.compile(
    r"(?:[\s,;$&]|\\[()\[\],;:! ]|\\q?quad|\\text\{[^{}]{0,40}\}|(?:[a-z]{1,12}\s+)?\b(?:and|or)\b"
    r"|[A-Za-z]\w?(?:_\{?\w{1,3}\}?)?\s*=)*"
)
#: Characters before the last box in which the other boxes of its list are looked for.
_LIST_LENGTH = 2000
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
#: (1,234) is no number, and 0,111 is none of a thousand.
_QUICK = re.compile(r"(-?)(\d+|[1-9]\d{0,2}(?:,\d{3})+)(?:/(\d+))?")
#: Longer answers are not read as numbers: a million digits are no answer, and converting them takes seconds.
MAX_NUMBER_LENGTH = 100


def after_thinking(text: str) -> str:
    """A text without its closed think block; the answer comes after it."""
    return text.rpartition("</think>")[2]


def extract_answer(text: str) -> str | None:
    r"""The content of the last balanced ``\boxed{...}`` after any closed think block; None when there is none.

    Boxes with nothing but "and", a comma or the like between them are one answer, a list.

    >>> extract_answer(r"First \boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer(r"The roots are \boxed{1} and \boxed{2}.")
    '1, 2'
    """
    text = after_thinking(text)
    newest = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if newest < 0:
        return None
    # Most often its end will do. (Where the last box is never closed, the whole text may have another one.)
    listed = max(0, newest - _LIST_LENGTH)
    if text.find("\\boxed", listed, newest) < 0 and text.find("\\fbox", listed, newest) < 0:
        plain = _PLAIN_BOX.match(text, newest)
        if plain:
            return plain[1].strip()
        listed = newest
    end = text[listed:]
    boxes = _boxes(end)
    if not boxes:
        end, boxes = text, _boxes(text)
    if not boxes:
        return None
    answer = [boxes.pop()]
    while boxes and _JOINT.fullmatch(end, boxes[-1].after, answer[0].before):
        answer.insert(0, boxes.pop())
    contents = [end[box.start : box.end].strip() for box in answer]
    return contents[0] if len(set(contents)) == 1 else ", ".join(contents)


class _Box(NamedTuple):
    before: int  #: where its command begins
    start: int  #: where its content does
    end: int
    after: int


def _boxes(text: str) -> list[_Box]:
    """The balanced boxes without another one in them, in their order. One pass, whatever the nesting."""
    open_braces: list[tuple[int, int] | None] = []  #: None for braces that are not a box's
    boxes: list[_Box] = []
    for match in _BRACES.finditer(text):
        if match["box"]:
            open_braces.append((match.start(), match.end()))
        elif match["open"]:
            open_braces.append(None)
        elif match["close"] and open_braces:
            box = open_braces.pop()
            if box is not None and (not boxes or boxes[-1].before < box[0]):
                boxes.append(_Box(*box, match.start(), match.end()))
    return boxes


def quick_number(answer: str) -> int | Fraction | None:
    r"""The exact value of an integer, a fraction of integers, or an integer with its digits in groups; None for anything else.

    This is the part of `reading.read` that decides most answers, in a microsecond.

    >>> quick_number("-1,000"), quick_number(r"\frac{1}{2}"), quick_number("0.5")
    (-1000, Fraction(1, 2), None)
    """
    if len(answer) > MAX_NUMBER_LENGTH:
        return None
    if answer.isdecimal():
        return int(answer)
    match = _FRACTION.fullmatch(answer) if "\\" in answer else _QUICK.fullmatch(answer)
    if match is None:
        return None
    sign, numerator, denominator = match.groups()
    value: int | Fraction = int(numerator.replace(",", ""))
    if denominator is not None:
        if not int(denominator):
            return None
        value = Fraction(value, int(denominator))
    return -value if sign else value
