"""Expressions that were read: how they are written for computer algebra, and their exact value where it is rational."""

import math
from dataclasses import dataclass
from fractions import Fraction

_DIGITS_AT_MOST = 400  #: an exact value has at most this many digits above and below


class CannotReadError(Exception):
    """This is no expression that is read. `ambiguous`: because it can be read in two ways."""

    def __init__(self, why: str, ambiguous: bool = False) -> None:
        super().__init__(why)
        self.ambiguous = ambiguous


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read whole."""

    latex: str
    value: Fraction | None  #: exactly, where it is rational
    names: frozenset[str]  #: letters and Greek letters in it, ``e`` and ``i`` among them
    step: Fraction | None = None  #: of a decimal numeral: one unit of its last digit; None for anything else
    digits: int = 0  #: of a decimal numeral: its significant digits
    sums: bool = False  #: whether it is a sum, which a product has to bracket
    negative: bool = False  #: whether it begins with a minus sign
    numeral: bool = False  #: an integer without a sign
    proper: bool = False  #: a fraction of two numerals, below one

    @property
    def bracketed(self) -> str:
        """Its LaTeX as a factor."""
        return rf"\left({self.latex}\right)" if self.sums or self.negative else self.latex


def rational(value: Fraction) -> Expression:
    """An exact value as an expression."""
    if value.denominator == 1:
        return Expression(str(value), value, frozenset(), negative=value < 0, numeral=value >= 0)
    latex = rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return Expression("-" + latex if value < 0 else latex, value, frozenset(), negative=value < 0)


def small(value: Fraction | None) -> Fraction | None:
    """A value, unless it has become too large to go on computing with."""
    if value is None:
        return None
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return value if bits < _DIGITS_AT_MOST * math.log2(10) else None


def power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """A rational power where it is rational and of a reasonable size.

    >>> power(Fraction(8, 27), Fraction(-2, 3))
    Fraction(9, 4)
    """
    if base == 0:
        return Fraction(0) if exponent > 0 else None
    whole, order = exponent.numerator, exponent.denominator
    if order > 1:
        if base < 0 or order > 64:
            return None
        above, below = _root(base.numerator, order), _root(base.denominator, order)
        if above is None or below is None:
            return None
        base = Fraction(above, below)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(whole) * max(1, bits - 1) > _DIGITS_AT_MOST * math.log2(10) and abs(base) != 1:
        return None
    return base**whole


def _root(number: int, order: int) -> int | None:
    if number in (0, 1):
        return number
    guess = math.isqrt(number) if order == 2 else round(number ** (1 / order)) if number < 10**15 else 0
    if order > 2 and not guess:
        low, high = 1, 1 << (number.bit_length() // order + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**order <= number else (low, middle - 1)
        guess = low
    return guess if guess**order == number else None


def negated(found: Expression) -> Expression:
    """Minus an expression."""
    value = None if found.value is None else -found.value
    return Expression(f"-{found.bracketed}", value, found.names, negative=True)


def closed(found: Expression) -> Expression:
    """What stands in brackets: no longer a numeral that a fraction could follow, nor one that was rounded."""
    return Expression(found.latex, found.value, found.names, found.step, found.digits, found.sums, found.negative)


def symbol(name: str) -> Expression:
    """A Greek letter or infinity."""
    return Expression(f"\\{name}", None, frozenset((name,)))


def is_power_of_ten(value: Fraction) -> bool:
    """Whether a value is 10, 100, 1/10 and so on."""
    small = min(value.numerator, value.denominator)
    large = max(value.numerator, value.denominator)
    return small == 1 and str(large).rstrip("0") == "1"


def numeral(token: str) -> Expression:
    """A number as a token has it."""
    mantissa, _, exponent = token.replace("E", "e").partition("e")
    if len(mantissa) > _DIGITS_AT_MOST or (exponent and abs(int(exponent)) > _DIGITS_AT_MOST):
        raise CannotReadError("a number too large to look at")
    found = rational(Fraction(mantissa + (f"e{exponent}" if exponent else "")))
    if "." not in mantissa and not exponent:
        return found
    whole, _, decimals = mantissa.partition(".")
    step = Fraction(1, 10 ** len(decimals)) * (Fraction(10) ** int(exponent) if exponent else 1)
    digits = len((whole + decimals).lstrip("0"))
    if not decimals and not exponent:
        return found
    return Expression(found.latex, found.value, frozenset(), step, digits)
