"""Answers that are one thing: a number, a quantity with its unit, a time, digits in a base, a choice, or words."""

import itertools
import re
from fractions import Fraction

from tapo_core.verification.expression_parser import parse
from tapo_core.verification.expressions import CannotReadError, Expression, rational
from tapo_core.verification.kinds import Answer, Choice, InBase, Quantity, Unread, Words
from tapo_core.verification.notation import AND, DEGREE, RELATION, unwrapped
from tapo_core.verification.units import DEGREE_KIND, LETTERS, read_unit, scale

_INTEGER = re.compile(r"[-+]?\d+")
_ORDINAL = re.compile(r"(\d+)\s*\"?(?:st|nd|rd|th)\"?")
_SPACED = re.compile(r"(-?)\s*([1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?)")
_COMMAS = re.compile(r"(-?)\s*([1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?)")
_CURRENCIES = "$€£¥₹"
_MONEY = re.compile(r"(-?)\s*([$€£¥₹])\s*(-?)\s*(.+)", re.DOTALL)
_BASE = re.compile(
    r"(-?)(?:([0-9A-Fa-f]+)\s*_\s*(?:\{\s*(\d{1,2})\s*\}|(\d))|([0-9A-Fa-f]+)\s*_\s*\{?\s*\"?(\w+)\"?\s*\}?)"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
          "twelve": 12, "sixteen": 16}  # fmt: skip
_MARKED = re.compile(r"\(\s*\"?\s*([A-Za-z])\s*\"?\s*\)[\s.:]*(.*)|([A-Z])\s*(?:\)|[.:](?=\s))\s*(.*)", re.DOTALL)
_REPEATING = re.compile(
    r"(-?)\s*(\d*)\.(\d*)(?:\\overline\s*\{\s*(\d+)\s*\}|\\overline\s*(\d)|\((\d+)\)|\\dot\s*\{?\s*(\d)\s*\}?)"
)
_GOING_ON = re.compile(r"(-?)\s*(\d*)\.(\d+)\s*(?:\.\.\.|\\cdots)")
_WORDS_ONLY = re.compile(r"[A-Za-z][A-Za-z'’\- ]*")
_UNIT_BEGINS = re.compile(r'(?<![\\A-Za-z_^])(?:"|[A-Za-z$%€£¥₹¢°])')
#: Possessive, so that a text that is no unit fails in one pass.
_UNIT = re.compile(r'(?>\s*+(?:"[^"]*+"|[$%€£¥₹¢°]|[A-Za-z]++\.?+)(?:\s*+\^\s*+\{?+-?+\d\}?+)?+(?:\s*+/)?+)++')
#: Where a unit may begin is looked at in so many places, and it has at most so many characters.
_MOST_PLACES, _LONGEST_UNIT = 8, 60
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_PARTS = re.compile(r"\s*(?:\d+(?:\.\d+)?\s*[A-Za-z]+[\s,]*(?:and\s+)?){2,4}")
_TRIGONOMETRY = re.compile(f"sin|cos|tan|cot|sec|csc|{DEGREE}")
_ARTICLES = frozenset(("The", "A", "An", "a", "an"))
_COUNTING = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
twenty
"""
_NUMBER_WORDS = {word: value for value, word in enumerate(_COUNTING.split())}


def number(text: str) -> Quantity | None:
    """An integer, with its digits in groups or not, or a number in words."""
    ordinal = _ORDINAL.fullmatch(text)
    if ordinal or _INTEGER.fullmatch(text):
        return Quantity(text, parse(ordinal[1] if ordinal else text))
    grouped = _COMMAS.fullmatch(text) or _SPACED.fullmatch(text)
    if grouped:
        return Quantity(text, parse(grouped[1] + re.sub(r"[, ]", "", grouped[2])))
    word = _NUMBER_WORDS.get(text.lower())
    return None if word is None else Quantity(text, parse(str(word)))


def base(text: str) -> Answer | None:
    """Digits with a base."""
    match = _BASE.fullmatch(text)
    if match is None:
        return None
    sign, digits = match[1], match[2] or match[5]
    base = int(match[3] or match[4]) if match[2] else _BASES.get(match[6].lower(), 0)
    if not 2 <= base <= 36 or not (digits[0].isdecimal() or base == 16):
        return None
    try:
        value = int(digits, base)
    except ValueError:
        return Unread(text, f"{digits} has a digit that base {base} does not have") if match[2] else None
    return InBase(text, sign + digits.lower(), base, Fraction(-value if sign else value))


def choice(text: str) -> Answer | None:
    """The letter of a choice, or a single letter."""
    if len(text) == 1 and text.isalpha():
        return Choice(text, text, marked=False)
    match = _MARKED.fullmatch(text.replace('"', " ").strip())
    if match is None:
        return None
    letter, rest = match[1] or match[3], unwrapped((match[2] if match[1] else match[4]) or "")
    # f(x) and (x)(x+1) are no choices; neither is (a)b.
    if rest and (match[1] or "").islower():
        return None
    if rest and (rest[0] in "(^+*/=<>_!-,;" or RELATION.match(rest) or AND.match(rest)):
        return None
    return Choice(text, letter, True, rest)


def repeating(text: str) -> Quantity | Unread | None:
    """A decimal with a period."""
    match = _REPEATING.fullmatch(text)
    if match:
        period = next(part for part in match.groups()[3:] if part)
        sign, whole, before = match[1], match[2], match[3]
    else:
        going_on = _GOING_ON.fullmatch(text)
        if going_on is None:
            return None
        sign, whole, digits = going_on[1], going_on[2], going_on[3]
        for length in range(1, len(digits) // 2 + 1):
            period = digits[-length:]
            # The period is told by being written twice, a single digit three times.
            times = 3 if length == 1 else 2
            if digits.endswith(period * times):
                before = digits
                while before.endswith(period):
                    before = before[: -len(period)]
                break
        else:
            return Unread(text, "a decimal that goes on in an unknown way")
    if len(before) + len(period) > 60:
        return Unread(text)
    value = Fraction(int(whole or 0)) + Fraction(int(before or 0), 10 ** len(before))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(before))
    return Quantity(text, parse(f"{sign}{value.numerator}/{value.denominator}"))


def words(text: str) -> Answer | None:
    """Words, or a sequence of letters."""
    bare = text.replace('"', " ")
    if not _WORDS_ONLY.fullmatch(bare.strip()):
        return None
    if any(len(part.strip()) < 2 for part in bare.split("-")) and "-" in bare:
        return None  # a difference of letters
    quoted = '"' in text
    if not quoted and _is_mathematics(bare.strip()):
        return None
    if AND.search(text):
        return None
    found = bare.split()
    if len(found) > 1 and (found[0] == "the" or (found[0] in _ARTICLES and found[1].islower())):
        found = found[1:]
    return Words(text, tuple(found)) if found else None


def _is_mathematics(text: str) -> bool:
    """Whether letters alone are an expression: pi, sin x, xy. (A text of other letters is a text.)"""
    if set(text) <= set("xyz ") and len(text) <= 3:
        return True
    try:
        names = parse(text).names
    except CannotReadError:
        return False
    return not all(len(name) == 1 for name in names) or any(
        word in ("sin", "cos", "tan", "ln", "log", "sqrt", "exp") for word in text.split()
    )


def quantity(text: str) -> Answer:
    """An expression, or one with a unit."""
    money = _MONEY.fullmatch(text)
    if money:
        inner = Unread(text) if money[4][0] in _CURRENCIES else quantity(unwrapped(money[4]))
        if not isinstance(inner, Quantity):
            return Unread(text)
        minus = (money[1] == "-") ^ (money[3] == "-")
        unit = inner.unit if inner.unit is not None else read_unit(money[2])
        return Quantity(text, _signed(inner.expression, minus), unit)
    compound = _compound(text)
    if compound is not None:
        return compound
    for place in itertools.islice(_UNIT_BEGINS.finditer(text), _MOST_PLACES):
        if len(text) - place.start() > _LONGEST_UNIT:
            continue
        value, unit_text = text[: place.start()], text[place.start() :]
        spaced = value != value.rstrip()
        if value and _UNIT.fullmatch(unit_text) and _is_unit(unit_text, spaced):
            found = _with_unit(text, value.rstrip(), unit_text)
            if found is not None:
                return found
    return _without_unit(text)


def _compound(text: str) -> Quantity | None:
    """2 hours 15 minutes, 4 feet 6 inches: in the first unit."""
    parts = _PART.findall(text.replace('"', " "))
    if len(parts) < 2 or not _PARTS.fullmatch(text.replace('"', " ")):
        return None
    units = [read_unit(unit) for _, unit in parts]
    first = units[0]
    if first is None or not all(unit is not None and unit.known and unit.kind == first.kind for unit in units):
        return None
    value = sum(Fraction(n) * unit.size / first.size for (n, _), unit in zip(parts, units, strict=True) if unit)
    return Quantity(text, rational(Fraction(value)), first)


def _without_unit(text: str) -> Quantity | Unread:
    found = number(text) or repeating(text)
    if found is not None:
        return found
    try:
        return Quantity(text, parse(text))
    except CannotReadError as error:
        return Unread(text, str(error) if error.ambiguous else None)


def _signed(expression: Expression, minus: bool) -> Expression:
    if not minus:
        return expression
    value = None if expression.value is None else -expression.value
    return Expression(
        f"-{expression.bracketed}", value, expression.names, expression.step, expression.digits, negative=True
    )


def _is_unit(text: str, spaced: bool) -> bool:
    """Whether what follows a number is meant as a unit: it is in quotes, or a sign, or a word, or a symbol that we know."""
    if '"' in text or text[0] in "$%€£¥₹¢" + DEGREE:
        return True
    first = re.match(r"[A-Za-z]+", text)
    if first is None:
        return False
    word = first[0]
    if word in LETTERS:
        return spaced
    unit = read_unit(text)
    return unit is not None and (unit.known or (spaced and len(word) > 2))


def _with_unit(text: str, value: str, unit_text: str) -> Quantity | None:
    factor, rest = scale(unit_text.replace('"', " "))
    unit = read_unit(rest) if rest.strip() else None
    if unit is None and factor == 1:
        return None
    number = _without_unit(unwrapped(value))
    if not isinstance(number, Quantity):
        return None
    expression = number.expression
    if unit is not None and unit.kind == DEGREE_KIND and _TRIGONOMETRY.search(value):
        return None  # the sine of an angle is no angle; a sum of angles is one as a whole
    if unit is not None and not unit.known and re.search(r"(?<!\bsq)\.\s", unit_text):
        return None  # a sentence
    if unit is not None and not unit.known and '"' not in unit_text and expression.names - {"pi", "e"}:
        return None  # words after letters are no unit
    if factor > 1:
        if expression.value is None:
            return None
        step = None if expression.step is None else expression.step * factor
        scaled = parse(f"{expression.value.numerator * factor}/{expression.value.denominator}")
        expression = Expression(scaled.latex, scaled.value, frozenset(), step, expression.digits)
    return Quantity(text, expression, unit)
