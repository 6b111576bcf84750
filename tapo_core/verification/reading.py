r"""What an answer is, decided before anything is compared: a number, a quantity, a time, a choice, words, a list, and so on.

`read` decides for gold answers and a policy's answers alike, by one small grammar over the notation of `notation.plain`. What the
grammar cannot read whole is `Unread`: text that only computer algebra, or nobody, understands.
"""

import contextlib
import re
from fractions import Fraction
from functools import lru_cache

from tapo_core.verification.expression_parser import parse
from tapo_core.verification.expressions import CannotReadError
from tapo_core.verification.guards import nesting
from tapo_core.verification.kinds import Answer, Choice, Collection, Quantity, Ratio, Relation, SetUnion, Unread
from tapo_core.verification.notation import (
    AND,
    CLOSING,
    OPENING,
    RELATION,
    closing,
    lightly,
    plain,
    squeezed,
    unwrapped,
    without_trailing_points,
)
from tapo_core.verification.single_answers import base, choice, number, quantity, repeating, words
from tapo_core.verification.times import date, time

#: All commas of x = 1,234 cm or of $1,234 are in one number.
_ONE_GROUPED = re.compile(r"(?:[^,]*=)?[^,\d=()\[\]]*[1-9]\d{0,2}(?:,\d{3})+(?!\d)[^,()\[\]]*")
_SEMICOLON, _COMMA, _COLON, _CUP = map(re.compile, (";", ",", ":", r"\\cup(?![A-Za-z])"))
_NAME = re.compile(
    r"\"[^\"]*\"|(?:\"[^\"]*\"\s*)?\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:'{1,3}|\^\{-1\})?(?:\([^()]*\))?|\|[A-Za-z]+\|"
    r"|\\(?:angle|overline|triangle)\s*\{?\s*[A-Za-z]+\s*\}?"
    r"|\(\s*[A-Za-z](?:_\w)?(?:\s*,\s*[A-Za-z](?:_\w)?)+\s*\)|[A-Za-z]+_?\{?\w*\}?\s*:\s*[A-Za-z]+_?\{?\w*\}?"
    r"|\\frac\{[A-Z]+\}\{[A-Z]+\}"
)
#: 3 and 1/2
_MIXED = re.compile(
    r"-?\d+\s*\"?\s*and\s*\"?\s*(?:(\d+)/(\d+)|\\frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d+)))", re.IGNORECASE
)
_JOINT = re.compile(r"(?<![A-Za-z])(and|or)(?![A-Za-z])", re.IGNORECASE)
_PHRASE = re.compile(
    r"\"?\s*(?:therefore,?|so,?|thus,?|hence,?)?\s*(?:the\s+)?(?:final\s+|correct\s+)?(?:answers?|option|choice)\s*"
    r"(?:is|are|=|:)\s*:?\s*|(?:option|choice)\s+(?=[A-Z]$)",
    re.IGNORECASE,
)
#: What is longer, or has brackets nested deeper, is not looked into.
_LONGEST, _DEEPEST, _MOST_ITEMS = 1000, 20, 100


@lru_cache(maxsize=1 << 15)
def read(answer: str) -> Answer | None:
    r"""What an answer is; None for an empty one.

    >>> read(r"3\frac{1}{2}").value, read("HHT").words, read("(1, 2]").brackets
    (Fraction(7, 2), ('HHT',), '(]')
    """
    if r"\begin" in answer:
        return Unread(lightly(answer))
    text = plain(answer)
    phrase = _PHRASE.match(text)
    if phrase and phrase.end() < len(text):
        text = without_trailing_points(text[phrase.end() :].strip().removesuffix('"').strip())
    if not text or text == '""':
        return None
    if len(text) > _LONGEST or nesting(text) > _DEEPEST:
        return Unread(text)
    try:
        return _read(text)
    except (CannotReadError, RecursionError):
        return Unread(text)


def _read(text: str) -> Answer:
    """An answer or a part of one, in the one notation."""
    braces = text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1
    text = unwrapped(text)
    if not text:
        return Unread(text)
    for reader in (number, time, date, base, choice, repeating, words):
        found = reader(text)
        if found is not None:
            return found
    for several in (_list, _union, _either_sign, _bracketed, _relation, _ratio):
        many = several(text)
        if many is not None:
            if braces and isinstance(many, Collection) and many.brackets == "":
                return Collection(f"{{{text}}}", "{", many.items)
            return many
    return quantity(text)


def _split(text: str, at: re.Pattern[str]) -> list[str]:
    """The parts of a text between separators that stand in no brackets and no quotes."""
    if not at.search(text):
        return [text.strip()]
    parts, depth, quoted, last, place = [], 0, False, 0, 0
    while place < len(text):
        sign = text[place]
        if not depth:
            match = at.match(text, place)
            if match and match.end() > place and (not quoted or '"' in match[0]):
                parts.append(text[last:place])
                last = place = match.end()
                continue
        if sign == '"':
            quoted = not quoted
        elif sign in OPENING and not quoted:
            depth += 1
        elif sign in CLOSING and not quoted:
            depth -= 1
        place += 1
    parts.append(text[last:])
    return [part.strip() for part in parts]


def _list(text: str) -> Answer | None:
    """Answers with commas, semicolons, "and" or "or" between them."""
    parts = _split(text, AND)
    pieces = []
    for part in parts:
        if _ONE_GROUPED.fullmatch(part):
            pieces.append(part)
            continue
        semicolons = _split(part, _SEMICOLON)
        pieces += semicolons if len(semicolons) > 1 else _split(part, _COMMA)
    pieces = [unwrapped(piece) for piece in pieces if piece.strip(' "')]
    if len(pieces) < 2:
        return None
    if len(pieces) > _MOST_ITEMS:
        return Unread(text)
    items = [_read(piece) for piece in pieces]
    mixed = _MIXED.fullmatch(text)
    if mixed and _below_one(*filter(None, mixed.groups())):
        return Unread(text, "a number and a fraction may be two numbers or one")
    first = items[0]
    # x = 1, 2, 3: the name is that of all of them.
    named = isinstance(first, Relation) and first.name is not None and first.value is not None
    if named and not any(isinstance(item, Relation) for item in items[1:]):
        assert isinstance(first, Relation)
        assert first.value is not None
        items[0] = first.value
    joints = {joint.lower() for joint in _JOINT.findall(text)}
    return Collection(text, "", tuple(items), joints.pop() if len(joints) == 1 else None)


def _below_one(numerator: str, denominator: str) -> bool:
    return int(numerator) < int(denominator)


def _union(text: str) -> Answer | None:
    parts = _split(text, _CUP)
    if len(parts) < 2:
        return None
    return SetUnion(text, tuple(_read(part) for part in parts))


def _either_sign(text: str) -> Answer | None:
    if text.count(r"\pm") != 1 or r"\mp" in text:
        return None
    if len(_split(text, RELATION)) > 1:
        return None
    both = [_read(text.replace(r"\pm", sign).replace("+ +", "+").strip().removeprefix("+")) for sign in "+-"]
    if not all(isinstance(one, Quantity) for one in both):
        return Unread(text)
    return Collection(text, "", tuple(both))


def _bracketed(text: str) -> Answer | None:
    if text in (r"\emptyset", r"\{\}", r"\{ \}"):
        return Collection(text, "{}", ())
    opening = text[0]
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inner, brackets = text[2:-2], "{}"
    elif opening in "([⟨" and closing(text, 0) == len(text) - 1:
        inner, brackets = text[1:-1], opening + text[-1]
    else:
        return None
    parts = _split(inner, _SEMICOLON)
    if len(parts) == 1:
        parts = _split(inner, _COMMA)
    if len(parts) == 1:
        if brackets == "()":
            return _read(inner)
        if brackets not in ("{}", "[]"):
            return Unread(text)
        parts = _split(inner, AND)
    if not all(parts):
        return Unread(text)
    return Collection(text, brackets, tuple(_read(part) for part in parts))


def _relation(text: str) -> Answer | None:
    sides = _split(text, RELATION)
    if len(sides) < 2:
        return None
    signs = tuple(match[0] for match in RELATION.finditer(text))
    if not sides[0] and len(sides) == 2 and signs[0] in ("=", r"\approx", r"\sim"):
        return _read(sides[1])
    if not all(sides) or len(signs) != len(sides) - 1:
        return Unread(text)
    read_sides = [_read(side) for side in sides]
    latex = None
    with contextlib.suppress(CannotReadError):
        written = [parse(side).latex for side in sides]
        latex = written[0] + "".join(f" {sign} {side}" for sign, side in zip(signs, written[1:], strict=True))
    name = value = None
    equal = all(sign in ("=", r"\approx", r"\in") for sign in signs)
    if equal and (_NAME.fullmatch(sides[0]) or len(sides) > 2 or all(map(_is_number, read_sides))):
        told = [side for side, sign in zip(read_sides[1:], signs, strict=True) if sign != r"\approx"]
        name, value = "".join(sides[0].split()), (told or read_sides[1:])[-1]
    return Relation(text, latex, tuple(sides), signs, name, value)


def _is_number(side: Answer) -> bool:
    """Whether a side of an equation has no unknown in it: the equation then is a computation, and its result comes last."""
    return isinstance(side, Quantity) and not side.expression.names - {"pi", "e"}


def _ratio(text: str) -> Answer | None:
    parts = _split(text, _COLON)
    if len(parts) < 2:
        return None
    values = []
    for part in parts:
        item = _read(part) if part else None
        if not isinstance(item, Quantity) or item.value is None or item.unit is not None:
            return Unread(text)
        values.append(item.value)
    return Ratio(text, tuple(values), None)


def exact_value(answer: str) -> Fraction | None:
    """The exact value of a plain number; None for anything else, and for what has a unit."""
    found = read(answer)
    return found.value if isinstance(found, Quantity) and found.unit is None else None


def canonical_answer(answer: str) -> str:
    """A text that is the same for answers that are plainly the same: "0.50" and "1/2" are both 1/2. It serves to count votes."""
    found = read(answer)
    if found is None:
        return ""
    if isinstance(found, Quantity) and found.value is not None:
        unit = "" if found.unit is None else " " + " ".join(sorted(found.unit.words))
        return f"{found.value}{unit}"
    if isinstance(found, Choice):
        return found.letter
    if isinstance(found, Quantity) and found.unit is None:
        return found.expression.latex
    return squeezed(found.text)
