r"""A worker of the symbolic tier: a process of its own in which math-verify compares one pair of expressions after another.

It is started fresh (nothing of its parent is in it), works in its main thread, and has confined itself before it reads the first
text: no more memory than it was given, no network, no program, no file written. It may be killed at any time.

Lines of JSON on standard input, each with ``cpu_seconds``, are of two kinds:

* ``{"gold": latex, "prediction": latex}``: are these equal? One of them may be ``\decimal{value}{step}{outcome}``: is
  the other one that value? `outcome` is that of a value that it is only if rounded to a multiple of `step`.
* ``{"find": text}``: which answer does a text have at its end?

Lines on standard output: ``{"ready": true}`` once, then for each question ``{"outcome": "correct" | "wrong" | "no_answer" |
"unknown", "answer": text, "reason": text}``. The outcome of a text in which an answer was found is "correct".
"""

import itertools
import json
import logging
import os
import random
import re
import sys
from typing import Any

from tapo_core.verification.sandbox import confine, cpu_limit

#: Characters of an answer that go back.
_MOST = 500
#: The kernel ends a worker that nobody ends: its parent's limit comes first.
_GRACE = 5.0
#: A worker that has mapped this share of what it may has run into the limit, or was about to.
_ALMOST = 0.9
#: Digits with which expressions are computed that math-verify takes for equal, and those that have to agree.
_DIGITS, _AGREE = 50, 30
_DECIMAL = re.compile(r"\\decimal\{(-?\d+(?:/\d+)?)\}\{(\d+(?:/\d+)?)\}\{(\w+)\}")
_NUMERAL = re.compile(r"\d+")
_COMMAND = re.compile(r"\\[A-Za-z]+|[^A-Za-z]+")


def main() -> None:
    """Serve until standard input ends. Arguments: bytes of memory."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever prints does not print into the replies
    logging.disable()
    judge(r"\frac{1}{2}", r"{x}^{2} + 1")  # everything that is imported late is imported now
    judge(r"x + \frac{1}{2}", r"\frac{1}{2} + x")
    find("it is 2")
    memory = int(sys.argv[1])
    confine(memory, files=True)  # sympy and math-verify import as they go
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        question = json.loads(line)
        cpu_limit(question["cpu_seconds"] + _GRACE)
        try:
            found = "find" in question
            answer = find(question["find"]) if found else judge(question["prediction"], question["gold"])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no verdict
            answer = {"outcome": "unknown", "answer": None, "reason": f"error: {type(error).__name__}"}
        # math-verify takes an error in a comparison, also one for lack of memory, for a difference.
        if answer["outcome"] != "correct" and _peak_bytes() > _ALMOST * memory:
            answer = {"outcome": "unknown", "answer": None, "reason": "memory"}
        _reply(replies, answer)
        if answer.get("reason") == "memory":
            return  # who knows what is half done in here


def _peak_bytes() -> int:
    """The most memory that this process has mapped."""
    with open("/proc/self/status", encoding="ascii") as status:
        kibibytes = next(line.split()[1] for line in status if line.startswith("VmPeak:"))
    return int(kibibytes) << 10


def _reply(replies: Any, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


def find(text: str) -> dict[str, Any]:
    """The answer that math-verify finds in a text, as it is written there.

    Raises:
        Exception: of any kind, from parsing.
    """
    from math_verify import parse

    found = parse(text, parsing_timeout=None, raise_on_error=True)
    answer = next((part[:_MOST] for part in found if isinstance(part, str) and part.strip()), None)
    return {"outcome": "no_answer" if answer is None else "correct", "answer": answer}


def judge(prediction: str, gold: str) -> dict[str, Any]:
    """Whether two expressions are equal, as math-verify has it and nothing that is computed contradicts.

    Raises:
        Exception: of any kind, from parsing or comparing.
    """
    for one, other in ((gold, prediction), (prediction, gold)):
        decimal = _DECIMAL.fullmatch(one)
        if decimal:
            return _rounded(decimal[1], decimal[2], decimal[3], other)
    expected = _parsed(gold)
    if not expected:
        return {"outcome": "unknown", "answer": None, "reason": "the gold answer cannot be read"}
    found = _parsed(prediction)
    if not found:
        return {"outcome": "wrong", "answer": None}
    from math_verify import verify

    failure = None
    for one, other in itertools.product(expected, found):
        try:
            one, other = _with_imaginary_unit(one), _with_imaginary_unit(other)
            if verify(one, other, timeout_seconds=None, raise_on_error=True):
                return _confirmed(one, other, gold, prediction)
        except Exception as error:  # noqa: BLE001 - it leaves the other readings their say
            failure = error
    if failure is not None:
        raise failure
    return {"outcome": "wrong", "answer": None}


def _parsed(latex: str) -> list[Any]:
    """What math-verify reads, without taking letters for units."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    normalised = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    config = LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalised)
    found: list[Any] = parse(f"$\\boxed{{{latex}}}$", [config], parsing_timeout=None, raise_on_error=True)
    return found


def _with_imaginary_unit(one: Any) -> Any:
    """The letter i as the imaginary unit: math-verify takes it for a variable in some places."""
    from sympy import Expr, I

    if not isinstance(one, Expr):
        return one
    return one.subs({symbol: I for symbol in one.free_symbols if symbol.name == "i"})


def _confirmed(gold: Any, found: Any, gold_latex: str, latex: str) -> dict[str, Any]:
    """Correct, unless the two differ where math-verify does not look: beyond its precision, in the case of letters, or in a
    part of a text that it left out.
    """
    for text, read in ((gold_latex, gold), (latex, found)):
        if _leaves_out(text, read):
            return {"outcome": "unknown", "answer": None, "reason": "only a part of the answer could be read"}
    letters = [set("".join(_COMMAND.split(text))) for text in (gold_latex, latex)]
    if letters[0] != letters[1] and {n.casefold() for n in letters[0]} == {n.casefold() for n in letters[1]}:
        return {"outcome": "wrong", "answer": None}
    if _differ(gold, found):
        return {"outcome": "wrong", "answer": None}
    return {"outcome": "correct", "answer": None}


def _leaves_out(text: str, read: Any) -> bool:
    """Whether a text was read as a bare number though it has other digits in it, as 12:75 read as 12."""
    from sympy import Number

    if not isinstance(read, Number) or not _NUMERAL.search(text) or "\\" in text:
        return False
    return not re.fullmatch(r"[-+*/^(){}\d.\sie]+", text)


def _differ(one: Any, other: Any) -> bool:
    """Whether two expressions that are numbers, or become numbers when their letters do, have clearly different values."""
    from sympy import Basic, Expr, Rational, Tuple
    from sympy.sets import FiniteSet

    if isinstance(one, Tuple | FiniteSet) and isinstance(other, Tuple | FiniteSet) and len(one.args) == len(other.args):
        if isinstance(one, Tuple) and isinstance(other, Tuple):
            return any(_differ(a, b) for a, b in zip(one.args, other.args, strict=True))
        return any(all(_differ(a, b) for b in other.args) for a in one.args)
    if not (isinstance(one, Basic) and isinstance(other, Basic) and isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    rng = random.Random(0)
    for _ in range(3 if symbols else 1):
        values = {symbol: Rational(rng.randrange(1, 997), rng.randrange(101, 499)) for symbol in symbols}
        try:
            a, b = (_value(side.xreplace(values)) for side in (one, other))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return False
        if a is None or b is None:
            return False
        if abs(a - b) > max(abs(a), abs(b)) * Rational(1, 10**_AGREE):
            return True
    return False


def _value(expression: Any) -> Any:
    """The value of an expression to many digits; None where it has none."""
    from sympy import nan, zoo

    value = expression.doit().evalf(_DIGITS)
    if value.has(nan, zoo) or value.free_symbols or not value.is_number or not value.is_finite:
        return None
    if not all(part.is_Float or part.is_Rational for part in value.as_real_imag()):
        return None
    return value


def _rounded(value: str, step: str, outcome: str, latex: str) -> dict[str, Any]:
    """Whether an expression is a decimal; `outcome` if it is rounded to the decimal's last digit."""
    from sympy import Abs, Rational

    read = [one for one in _parsed(latex) if not isinstance(one, str)]
    number = _value(read[0]) if read else None
    if number is None or not number.is_real:
        return {"outcome": "wrong", "answer": None}
    distance = Abs(number - Rational(value))
    if bool(distance <= Abs(Rational(value)) * Rational(1, 10**_AGREE)):
        return {"outcome": "correct", "answer": None}
    if bool(distance * 2 > Rational(step)):
        return {"outcome": "wrong", "answer": None}
    return {"outcome": outcome, "answer": None, "reason": "too few digits" if outcome == "unknown" else None}
