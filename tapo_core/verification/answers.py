"""Answers as texts: where a text has its answer, what two answers that are written differently have in common, and numbers."""

import re
from fractions import Fraction
from typing import NamedTuple

_BRACES = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\[{}\\]|(?P<open>\{)|(?P<close>\})")
_PLAIN_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}\\]*)\}")
#: What may stand between the boxes of a list: signs, LaTeX's spaces and limits, a word or two, and a name that is set equal.
_JOINT = re.compile(
    r"(?:[\s,;$&]|\\[()\[\],;:! ]|\\q?quad|\\text\{[^{}]{0,40}\}|\band\b|\bor\b|[A-Za-z]\w?(?:_\{?\w{1,3}\}?)?\s*=)*"
)
#: Characters before the last box in which the other boxes of its list are looked for.
_LIST_LENGTH = 2000
_FRACTION = re.compile(r"(-?)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
_NUMBER = re.compile(r"(- ?)?(\d+(?:\.\d*)?|\.\d+)(?: ?/ ?(\d+))?")
#: A number with its digits in groups of three. (1,234) is no number, and 0,111 is none of a thousand.
_GROUPED = re.compile(r"-?[1-9]\d{0,2}(?:(?:,|\\,|\{,\}|[ \u00a0\u202f])\d{3})+(?:\.\d+)?")
_NUMERAL = re.compile(r"[-+]?[\d.,]+(?: \d{3})* ?%?")
_DELIMITED = re.compile(r"(?<!\\)\$|\\boxed|\\\(|\\\[")
_SEPARATOR = re.compile(r",|\\,|\{,\}|[ \u00a0\u202f]")
_DECORATION = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!;: $]")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)\s*\}")
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


def normalise(answer: str) -> str:
    """An answer without the decorations that do not change its value."""
    answer = answer.strip()
    if answer.isalnum():
        return answer
    bare = answer.strip("$")
    answer = (answer if "$" in bare else bare).strip().rstrip(".").strip()
    if "\\" in answer:
        answer = _TEXT.sub(r"\1", _DECORATION.sub("", answer))
    if _GROUPED.fullmatch(answer):
        answer = _SEPARATOR.sub("", answer)
    return " ".join(answer.split())


def as_number(answer: str) -> Fraction | None:
    """The exact value of an integer, decimal or simple fraction; None for anything else.

    >>> as_number("-1,000.50")
    Fraction(-2001, 2)
    """
    return number_of(normalise(answer))


def number_of(answer: str) -> Fraction | None:
    """`as_number` of an answer that is normalised already."""
    if len(answer) > MAX_NUMBER_LENGTH:
        return None
    if answer.isdecimal():
        return Fraction(int(answer))
    if "\\" in answer:
        answer = _FRACTION.sub(r"\1\2/\3", answer)
    match = _NUMBER.fullmatch(answer.replace("\u2212", "-"))
    if match is None:
        return None
    sign, numerator, denominator = match.groups()
    value = Fraction(numerator)
    if denominator is not None:
        if int(denominator) == 0:
            return None
        value /= int(denominator)
    return -value if sign else value


def is_bare(answer: str) -> bool:
    """Whether an answer is LaTeX without anything around it that says so, and no number that a text could have like this."""
    return not _NUMERAL.fullmatch(answer.strip()) and not _DELIMITED.search(answer)


def one_is_rounded(one: str, other: str) -> bool:
    """Whether one of two numbers is written as a decimal and the other as a fraction, which it may stand for though not equal."""
    return ("." in one) != ("." in other) and any("/" in part or "frac" in part for part in (one, other))


def canonical_answer(answer: str) -> str:
    """A text that is the same for answers of the same value, as far as the verifier sees it: "0.50" and "1/2" are both 1/2."""
    number = as_number(answer)
    return normalise(answer) if number is None else str(number)
