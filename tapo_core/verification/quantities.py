"""Whether two numbers, expressions or quantities are the same."""

from fractions import Fraction

from tapo_core.verification.expression_parser import parse
from tapo_core.verification.expressions import CannotReadError, Expression
from tapo_core.verification.kinds import Quantity
from tapo_core.verification.likeness import DIFFERENT, SAME, UNCLEAR, Ask, Likeness
from tapo_core.verification.units import DEGREE_KIND, Unit, read_unit

#: A decimal that stands for a number with more digits has to have at least this many.
SIGNIFICANT_DIGITS = 6
#: Words that make another unit of one.
_CHANGING = frozenset(("not", "non", "no", "les", "less", "fewer", "more", "light", "nautical", "half", "double"))


def rounded(decimal: Expression, exact: Fraction) -> bool:
    """Whether a decimal numeral is a number rounded to its last digit."""
    assert decimal.value is not None
    assert decimal.step is not None
    return abs(decimal.value - exact) * 2 <= decimal.step


def numbers(gold: Expression, answer: Expression, factor: Fraction = Fraction(1)) -> Likeness:
    """Two numbers whose exact values are known. `factor`: of the answer's unit in the gold answer's.

    A decimal of at least six significant digits is the same as a fraction that no decimal writes exactly, if it is that fraction
    rounded: 0.333333 is 1/3, 0.3333 is not. Where the *gold* answer has fewer digits, nobody can tell.
    """
    assert gold.value is not None
    assert answer.value is not None
    value = answer.value * factor
    if gold.value == value:
        return SAME
    if (gold.step is None) == (answer.step is None) or factor != 1:
        return DIFFERENT
    decimal, exact = (gold, value) if gold.step is not None else (answer, gold.value)
    if _terminates(exact) or not rounded(decimal, exact):
        return DIFFERENT
    if decimal.digits >= SIGNIFICANT_DIGITS:
        return SAME
    return UNCLEAR if decimal is gold else DIFFERENT


def _terminates(value: Fraction) -> bool:
    """Whether a decimal can write a fraction exactly."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _expressions(gold: Expression, answer: Expression, ask: Ask) -> Likeness:
    if gold.value is not None and answer.value is not None:
        return numbers(gold, answer)
    if gold.latex == answer.latex:
        return SAME
    return ask(gold.latex, answer.latex) if gold.step is None and answer.step is None else _decimal(gold, answer, ask)


def _decimal(gold: Expression, answer: Expression, ask: Ask) -> Likeness:
    """A decimal and an expression: the worker finds the expression's value and rounds it."""
    decimal = gold if gold.step is not None else answer
    assert decimal.step is not None
    assert decimal.value is not None
    # A decimal that looks like an integer may be one that was rounded, or one that was computed with.
    precise = decimal.digits >= SIGNIFICANT_DIGITS and decimal.value.denominator > 1
    otherwise = "correct" if precise else "unknown" if decimal is gold or decimal.value.denominator == 1 else "wrong"
    written = f"\\decimal{{{decimal.value}}}{{{decimal.step}}}{{{otherwise}}}"
    return ask(written, answer.latex) if decimal is gold else ask(gold.latex, written)


def quantities(gold: Quantity, answer: Quantity, ask: Ask) -> Likeness:
    """Two numbers or expressions, each with or without a unit."""
    ours, theirs = gold.unit, answer.unit
    if ours is None and theirs is None:
        return _expressions(gold.expression, answer.expression, ask)
    if ours is None or theirs is None:
        return _one_unit(gold, answer, ask)
    if ours.known and theirs.known:
        if ours.kind != theirs.kind:
            return DIFFERENT
        factor = theirs.size / ours.size
        if factor == 1 or None in (gold.value, answer.value):
            return _expressions(gold.expression, answer.expression, ask) if factor == 1 else UNCLEAR
        return numbers(gold.expression, answer.expression, factor)
    found = _expressions(gold.expression, answer.expression, ask)
    if found is not SAME or ours.kind == theirs.kind:
        return found
    return SAME if _is_narrower(ours, theirs) or _is_narrower(theirs, ours) else UNCLEAR


def _is_narrower(unit: Unit, other: Unit) -> bool:
    """Whether things that are counted are some of the others: red apples are apples. (Apples per box are no apples.)"""
    if not set(other.kind) <= set(unit.kind) or any(power != 1 for _, power in (*unit.kind, *other.kind)):
        return False
    extra = [word for word, _ in set(unit.kind) - set(other.kind)]
    units = [read_unit(word) for word in extra]
    return _CHANGING.isdisjoint(extra) and all(found is not None and not found.known for found in units)


def _one_unit(gold: Quantity, answer: Quantity, ask: Ask) -> Likeness:
    """One of them has a unit. Without one it is taken to be meant in the same; a percentage may also be a share."""
    with_unit, bare = (gold, answer) if gold.unit is not None else (answer, gold)
    assert with_unit.unit is not None
    found = _expressions(gold.expression, answer.expression, ask)
    if with_unit.unit.is_percent and with_unit.value is not None and bare.value is not None:
        if with_unit.value / 100 == bare.value:
            return SAME
        # 40% may be meant by 40; 0.5% by 0.5 most likely not.
        return UNCLEAR if found is SAME and abs(bare.value) <= 1 and bare.value else found
    if found is SAME:
        return SAME
    if with_unit.unit.kind == DEGREE_KIND and "pi" in bare.expression.names:
        return UNCLEAR  # radians, most likely
    # 5 m may be five times m.
    algebra = _without_unit(with_unit)
    if algebra is not None and bare.value is None:
        pair = (algebra, bare.expression) if with_unit is gold else (bare.expression, algebra)
        return _expressions(*pair, ask)
    return found


def _without_unit(quantity: Quantity) -> Expression | None:
    try:
        return parse(quantity.text)
    except CannotReadError:
        return None
