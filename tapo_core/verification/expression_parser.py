r"""Expressions: read whole or not at all, with the exact value where it is rational, and written again without ambiguity.

`parse` reads the notation of `notation.plain`, so LaTeX, ASCII and Unicode alike: ``pi/4``, ``x**2+1``, ``ln(2)``,
``2\sqrt{3}``, ``6.02e23``. An integer directly before a proper fraction is a mixed number: ``3\frac{1}{2}`` is 7/2. What
computer algebra gets is `Expression.latex`, in which every product has its sign and every decimal is a fraction, so that it can
be read in one way only.
"""

import math
import re
from fractions import Fraction

from tapo_core.verification.expressions import (
    CannotReadError,
    Expression,
    closed,
    is_power_of_ten,
    negated,
    numeral,
    power,
    rational,
    small,
    symbol,
)
from tapo_core.verification.notation import DEGREE
from tapo_core.verification.tokens import Tokens

_FUNCTION_NAMES = """
sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth asin acos atan asinh acosh atanh arcsinh arccosh arctanh
ln log lg exp sqrt abs cbrt
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_LATEX_NAMES = {
    **{name: rf"\arc{name[1:]}" for name in ("asin", "acos", "atan")},
    **{f"a{name}": rf"\operatorname{{ar{name}}}" for name in ("sinh", "cosh", "tanh")},
    **{f"arc{name}": rf"\operatorname{{ar{name}}}" for name in ("sinh", "cosh", "tanh")},
    "arccot": r"\operatorname{arccot}",
    "lg": r"\log_{10}",
}
_SYMBOL_NAMES = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega
Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega infty ell hbar
"""
_GREEK = frozenset(_SYMBOL_NAMES.split())
_WORDS = {"infinity": "infty", "inf": "infty", "oo": "infty"} | {name: name for name in _GREEK if len(name) > 1}
_NEVER_WORDS = frozenset(("nu", "mu", "xi", "ell", "hbar"))  #: too short, or no name that ASCII uses
_LETTERS_AT_MOST = 3  #: more letters in a row are a word and not a product
_DEPTH = 60


def parse(text: str) -> Expression:
    """Read all of a text as one expression.

    Raises:
        CannotReadError: it is none, or it has two meanings.
    """
    parser = _Parser(text)
    found = parser.sum()
    if parser.kind is not None:
        raise CannotReadError(f"{parser.token!r} is not expected")
    return found


class _Parser(Tokens):
    """Recursive descent over one text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._rest = 0  #: up to here the letters of a word are factors, whatever they spell

    def sum(self) -> Expression:
        """Terms with signs between them."""
        found = self._signed()
        while self.kind == "sign" and self.token in "+-":
            minus = self.token == "-"
            self.advance()
            term = self._signed()
            value = None
            if found.value is not None and term.value is not None:
                value = small(found.value - term.value if minus else found.value + term.value)
            right = term.bracketed if minus or term.negative else term.latex
            latex = f"{found.latex} {'-' if minus else '+'} {right}"
            found = Expression(latex, value, found.names | term.names, sums=True, negative=found.negative)
        return found

    def _signed(self) -> Expression:
        minus = False
        while self.kind == "sign" and self.token in "+-":
            minus ^= self.token == "-"
            self.advance()
        term = self._product()
        if not minus:
            return term
        value = None if term.value is None else -term.value
        latex = f"-{term.bracketed}"
        return Expression(latex, value, term.names, term.step, term.digits, negative=True)

    def _product(self) -> Expression:
        found = self._power()
        divided = False
        while True:
            if (self.kind == "command" and self.token == r"\cdot") or (self.kind == "sign" and self.token == "*"):
                self.advance()
                found = self._times(found, self._factor())
            elif (self.kind == "sign" and self.token == "/") or (self.kind == "command" and self.token == r"\div"):
                self.advance()
                found = self._over(found, self._factor())
                divided = True
            elif self._begins_factor():
                if divided:
                    raise CannotReadError(
                        "it has a product after a slash: write brackets or a fraction", ambiguous=True
                    )
                found = self._beside(found)
            else:
                return found

    def _factor(self) -> Expression:
        """What follows a sign of multiplication; it may have a sign of its own."""
        if self.kind == "sign" and self.token in "+-":
            minus = self.token == "-"
            self.advance()
            factor = self._power()
            return negated(factor) if minus else factor
        return self._power()

    def _begins_factor(self) -> bool:
        if self.kind in ("number", "letters", "text"):
            return True
        if self.kind == "command":
            return self.token[1:] in _GREEK | _FUNCTIONS | {"frac", "binom", "sqrt", "circ"} - {"circ"}
        return self.kind == "sign" and self.token in ("(", "{", "[")

    def _beside(self, left: Expression) -> Expression:
        """A factor without a sign of multiplication. An integer and a proper fraction are a mixed number."""
        is_fraction = self.kind == "command" and self.token == r"\frac"
        in_braces = self.kind == "sign" and self.token == "{"
        is_number = self.kind == "number"
        spaced = self.is_spaced
        right = self._power()
        is_fraction |= in_braces and right.proper
        if left.numeral and is_number and spaced and self.kind == "sign" and self.token == "/":
            self.advance()
            below = self._power()
            if right.numeral and below.numeral and right.value is not None and below.value:
                right = self._over(right, below)
                is_fraction = True
        if is_fraction and left.numeral and left.value is not None and right.value is not None:
            if not right.proper:
                if right.value.denominator == 1 or right.value > 1 or right.value == 0:
                    raise CannotReadError("an integer before an improper fraction has two meanings", ambiguous=True)
                return self._times(left, right)
            return rational(left.value + right.value)
        if is_number:
            raise CannotReadError("two numbers stand side by side", ambiguous=True)
        if is_fraction and left.step is not None:
            raise CannotReadError("a decimal before a fraction has two meanings", ambiguous=True)
        return self._times(left, right)

    def _times(self, left: Expression, right: Expression) -> Expression:
        value = None
        if left.value is not None and right.value is not None:
            value = small(left.value * right.value)
        elif 0 in (left.value, right.value) and "infty" not in left.names | right.names:
            value = Fraction(0)
        latex = rf"{left.bracketed} \cdot {right.bracketed}"
        step, digits = None, 0
        # A decimal times a power of ten is a decimal too.
        if left.step is not None and right.value is not None and right.step is None and is_power_of_ten(right.value):
            step, digits = left.step * right.value, left.digits
        return Expression(latex, value, left.names | right.names, step, digits)

    def _over(self, left: Expression, right: Expression) -> Expression:
        if right.value == 0:
            raise CannotReadError("it divides by zero")
        value = None
        if left.value is not None and right.value is not None:
            value = small(left.value / right.value)
        both = left.numeral and right.numeral
        proper = both and value is not None and value < 1
        latex = rf"\frac{{{left.latex}}}{{{right.latex}}}"
        return Expression(latex, value, left.names | right.names, proper=proper)

    def _power(self) -> Expression:
        self._depth += 1
        if self._depth > _DEPTH:
            raise CannotReadError("it is nested too deeply")
        base = self._raised()
        self._depth -= 1
        return base

    def _raised(self) -> Expression:
        base = self._atom()
        while self.kind == "sign" and self.token in ("!", "'", DEGREE):
            if self.token == "'":
                raise CannotReadError("it has a prime")
            if self.token == DEGREE:
                self.advance()
                base = self._times(base, Expression(r"\frac{\pi}{180}", None, frozenset(("pi",))))
                continue
            self.advance()
            whole = base.value if base.value is not None and base.value.denominator == 1 else None
            value = None
            if whole is not None and 0 <= whole <= 150:
                value = small(Fraction(math.factorial(int(whole))))
            inner = base.latex if base.numeral or len(base.latex) == 1 else rf"\left({base.latex}\right)"
            base = Expression(f"{inner}!", value, base.names)
        if self.kind == "sign" and self.token == "^":
            self.advance()
            exponent = self._argument()
            value = None
            if base.value is not None and exponent.value is not None:
                value = power(base.value, exponent.value)
                if value is None and base.value == 0 and exponent.value <= 0:
                    raise CannotReadError("zero has no such power")
            simple = base.numeral or (len(base.names) == 1 and base.latex.lstrip("\\").isalpha())
            inner = base.latex if simple else rf"\left({base.latex}\right)"
            base = Expression(rf"{{{inner}}}^{{{exponent.latex}}}", value, base.names | exponent.names)
            if self.kind == "sign" and self.token == "^":
                raise CannotReadError("a power of a power without brackets", ambiguous=True)
        return base

    def _argument(self) -> Expression:
        """What belongs to ``^`` or a function of LaTeX: a group, or one thing with its sign."""
        if self.take("{"):
            found = self.sum()
            self.expect("}")
            return found
        if self.kind == "sign" and self.token in "+-":
            minus = self.token == "-"
            self.advance()
            found = self._atom(whole_letters=False)
            return negated(found) if minus else found
        return self._atom(whole_letters=False)

    def _braced(self) -> Expression:
        r"""An argument of ``\frac``: a group, or one digit or letter."""
        if self.take("{"):
            found = self.sum()
            self.expect("}")
            return found
        if self.kind == "number":
            digit = self.token[0]
            if not digit.isdecimal():
                raise CannotReadError("a digit is missing")
            self.at -= len(self.token) - 1
            self.advance()
            return rational(Fraction(int(digit)))
        if self.kind == "letters":
            letter = self.token[0]
            self.at -= len(self.token) - 1
            self.advance()
            return Expression(letter, None, frozenset(letter))
        return self._atom()

    def _atom(self, whole_letters: bool = True) -> Expression:
        kind, token = self.kind, self.token
        if kind == "number":
            self.advance()
            return numeral(token)
        if kind == "letters":
            return self._letters(whole_letters)
        if kind == "text":
            self.advance()
            if len(token) == 1 and token.isalpha():
                return Expression(token, None, frozenset(token))
            if token in _FUNCTIONS:
                return self._function(token)
            raise CannotReadError(f"it has the word {token!r} in it")
        if kind == "command":
            return self._command()
        if kind == "sign":
            for opening, closing in (("(", ")"), ("{", "}"), ("[", "]")):
                if token == opening:
                    self.advance()
                    found = self.sum()
                    self.expect(closing)
                    return found if opening == "{" else closed(found)
            if token == "|":
                self.advance()
                found = self.sum()
                self.expect("|")
                value = None if found.value is None else abs(found.value)
                return Expression(rf"\left|{found.latex}\right|", value, found.names)
        raise CannotReadError(f"{token or 'its end'!r} is not expected")

    def _letters(self, whole: bool) -> Expression:
        word = self.token
        if self.at > self._rest:
            if word in _FUNCTIONS:
                self.advance()
                return self._function(word)
            if word in _WORDS and word not in _NEVER_WORDS:
                self.advance()
                return symbol(_WORDS[word])
            if len(word) > _LETTERS_AT_MOST:
                raise CannotReadError(f"{word!r} is a word")
            self._rest = self.at
        # One letter is taken, the others are the next tokens: a product.
        self.at -= len(word) - 1
        self.advance()
        self.is_spaced = False
        letter = word[0]
        latex = letter
        if self.kind == "sign" and self.token == "_":
            latex += self._subscript()
        if self.kind == "sign" and self.token == "(" and letter in "fghFGHPQR" and len(word) == 1 and whole:
            raise CannotReadError(f"{letter} is a function")
        return Expression(latex, None, frozenset((latex,)))

    def _subscript(self) -> str:
        self.advance()
        if self.take("{"):
            parts = []
            while self.kind is not None and not (self.kind == "sign" and self.token == "}"):
                parts.append(self.token)
                self.advance()
            self.expect("}")
            inner = "".join(parts)
        else:
            inner = self.token
            self.advance()
        if not re.fullmatch(r"[A-Za-z0-9]{1,8}", inner):
            raise CannotReadError("a subscript that is no letter or number")
        return f"_{{{inner}}}"

    def _command(self) -> Expression:
        name = self.token[1:]
        self.advance()
        if name in _GREEK:
            found = symbol(name)
            if self.kind == "sign" and self.token == "_":
                latex = found.latex + self._subscript()
                return Expression(latex, None, frozenset((latex,)))
            return found
        if name == "frac":
            above = self._braced()
            return self._over(above, self._braced())
        if name == "binom":
            above, below = self._braced(), self._braced()
            value = None
            if above.value is not None and below.value is not None:
                n, k = above.value, below.value
                if n.denominator == k.denominator == 1 and 0 <= k <= n <= 300:
                    value = small(Fraction(math.comb(int(n), int(k))))
            return Expression(rf"\binom{{{above.latex}}}{{{below.latex}}}", value, above.names | below.names)
        if name == "overline":
            raise CannotReadError("it has a bar over something")
        if name in _FUNCTIONS:
            return self._function(name)
        raise CannotReadError(f"\\{name} is not expected")

    def _function(self, name: str) -> Expression:
        if name in ("sqrt", "cbrt"):
            return self._square_root(name)
        exponent = base = None
        if self.kind == "sign" and self.token == "_" and name == "log":
            self.advance()
            base = self._argument()
        if self.take("^"):
            exponent = self._argument()
        bracketed = self.kind == "sign" and self.token in "({"
        argument = self._atom() if bracketed else self._bare_argument()
        names = argument.names | (exponent.names if exponent else frozenset()) | (base.names if base else frozenset())
        if name == "abs":
            value = None if argument.value is None else abs(argument.value)
            return Expression(rf"\left|{argument.latex}\right|", value, names)
        if name == "exp":
            latex = rf"{{e}}^{{{argument.latex}}}"
            names |= {"e"}
        else:
            written = _LATEX_NAMES.get(name, f"\\{name}")
            if base is not None:
                written += f"_{{{base.latex}}}"
            if exponent is not None and exponent.value == -1:  # the inverse function, by custom
                if name not in ("sin", "cos", "tan"):
                    raise CannotReadError("the inverse of a function", ambiguous=True)
                written, exponent = rf"\arc{name}", None
            latex = rf"{written}\left({argument.latex}\right)"
        if exponent is not None:
            latex = rf"{{\left({latex}\right)}}^{{{exponent.latex}}}"
        return Expression(latex, None, names)

    def _bare_argument(self) -> Expression:
        """``\\sin 2x`` is the sine of 2x: factors side by side, up to a sign or another function."""
        if self.kind == "sign" and self.token == "-":
            self.advance()
            return negated(self._bare_argument())
        found = self._power()
        while self.kind in ("number", "letters") or (
            self.kind == "command" and self.token[1:] in _GREEK | {"frac", "sqrt"}
        ):
            if self.token.lstrip("\\") in _FUNCTIONS - {"sqrt"}:
                break
            found = self._beside(found)
        if self.kind == "sign" and self.token == "(":
            raise CannotReadError("a bracket after the argument of a function", ambiguous=True)
        return found

    def _square_root(self, name: str) -> Expression:
        order = rational(Fraction(3 if name == "cbrt" else 2))
        if self.take("["):
            order = self.sum()
            self.expect("]")
        radicand = self._braced() if self.kind != "sign" or self.token != "(" else self._atom()
        value = None
        if radicand.value is not None and order.value:
            value = power(radicand.value, 1 / order.value)
        prefix = r"\sqrt" if order.value == 2 else rf"\sqrt[{order.latex}]"
        return Expression(rf"{prefix}{{{radicand.latex}}}", value, radicand.names | order.names)
