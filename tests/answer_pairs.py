"""Pairs of answers whose truth is known: values are drawn first, as exact objects, and then written in many ways.

The oracle never reads a text. Two answers are the same exactly if the objects that they were written from are (fractions, sets of
fractions, units with their factors, polynomials by sympy).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy

X = sympy.Symbol("x")
UNITS = {  # written forms, dimension, factor
    "cm": (("cm", r"\text{ cm}", "centimeters", r"\text{ centimeters}"), "length", Fraction(1, 100)),
    "m": ((r"\text{ m}", " meters", r"\text{ meters}", " m"), "length", Fraction(1)),
    "km": (("km", r"\text{ km}", " kilometers"), "length", Fraction(1000)),
    "kg": ((" kg", r"\text{ kg}", " kilograms"), "mass", Fraction(1000)),
    "g": ((r"\text{ g}", " grams"), "mass", Fraction(1)),
    "h": ((" hours", r"\text{ hours}", " h"), "time", Fraction(3600)),
    "min": ((" min", r"\text{ minutes}", " minutes"), "time", Fraction(60)),
    "area": ((r"\text{ cm}^2", " square centimeters", r"\text{ sq cm}"), "area", Fraction(1, 10000)),
    "degree": (("°", r"^\circ", r"^{\circ}", " degrees", r"\text{ degrees}"), "angle", Fraction(1)),
}
SOME_WORDS = """
Amy May east seat no on yes true false odd even left felt Monday Tuesday dirty room dormitory angel glean silent listen parallel
perpendicular increasing decreasing ellipse circle
"""
WORDS = SOME_WORDS.split()
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Value:
    """What an answer means. Two answers are the same if kind and key are equal."""

    kind: str
    key: Any


@dataclass(frozen=True)
class PairOfAnswers:
    """A gold answer, another answer, and whether they are the same."""

    kind: str
    gold: str
    answer: str
    same: bool


def number(rng: random.Random) -> Fraction:
    """Integers, decimals and fractions; some of them very small or very large."""
    kind = rng.randrange(6)
    if kind == 0:
        return Fraction(rng.randrange(-50, 200))
    if kind == 1:
        return Fraction(rng.randrange(-9999, 9999), 10 ** rng.randrange(1, 4))
    if kind == 2:
        return Fraction(rng.randrange(-90, 90), rng.randrange(2, 60))
    if kind == 3:
        return Fraction(rng.randrange(1, 9999)) * Fraction(10) ** rng.randrange(-34, 24)
    if kind == 4:
        return Fraction(1, 2 ** rng.randrange(1, 90))
    return Fraction(rng.randrange(1000, 10**8))


def is_decimal(value: Fraction) -> bool:
    """Whether some ten decimals write it exactly."""
    return (value * 10**10).denominator == 1


def _decimal(value: Fraction) -> str:
    scaled = str(abs(int(value * 10**10))).rjust(11, "0")
    whole, decimals = scaled[:-10], scaled[-10:].rstrip("0")
    return ("-" if value < 0 else "") + whole + (f".{decimals}" if decimals else "")


def write_number(value: Fraction, rng: random.Random) -> str:
    """One of the ways in which people write it."""
    ways: list[Callable[[], str]] = []
    sign, size = ("-" if value < 0 else ""), abs(value)
    top, bottom = size.numerator, size.denominator
    if value.denominator == 1:
        ways += [lambda: str(value), lambda: f"${value}$", lambda: f"{value}.", lambda: f"{value}.0"]
        if size >= 1000:
            ways += [
                lambda: f"{int(value):,}",
                lambda: f"{int(value):,}".replace(",", "{,}"),
                lambda: f"{int(value):,}".replace(",", r",\!"),
            ]
            ways += [lambda: f"{int(value):,}".replace(",", " ")]
        if size > 10**6:
            mantissa = str(size).rstrip("0")
            exponent = len(str(size)) - 1
            scientific = mantissa[0] + ("." + mantissa[1:] if len(mantissa) > 1 else "")
            ways += [lambda: f"{sign}{scientific}e{exponent}", lambda: rf"{sign}{scientific} \times 10^{{{exponent}}}"]
            ways += [lambda: f"{sign}{scientific}×10{str(exponent).translate(SUPERSCRIPTS)}"]
    else:
        ways += [
            lambda: rf"{sign}\frac{{{top}}}{{{bottom}}}", lambda: f"{sign}{top}/{bottom}",
            lambda: rf"{sign}\dfrac{{{top}}}{{{bottom}}}", lambda: rf"\frac{{{sign}{top}}}{{{bottom}}}",
            lambda: rf"{sign}\frac{{{3 * top}}}{{{3 * bottom}}}",
        ]  # fmt: skip
        if top > bottom:
            whole, rest = divmod(top, bottom)
            ways += [
                lambda: rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}", lambda: f"{sign}{whole} {rest}/{bottom}",
                lambda: rf"{sign}{whole}\,\tfrac{{{rest}}}{{{bottom}}}",
            ]  # fmt: skip
            if (rest, bottom) in ((1, 2), (1, 3), (3, 4)):
                glyph = {(1, 2): "½", (1, 3): "⅓", (3, 4): "¾"}[rest, bottom]
                ways += [lambda: f"{sign}{whole}{glyph}"]
        if top < 10 and bottom < 10:
            ways += [lambda: rf"{sign}\frac{top}{bottom}"]
        if 3 in (bottom, bottom // 3 if bottom % 3 == 0 else 0) and bottom == 3:
            whole, rest = divmod(top, 3)
            ways += [lambda: rf"{sign}{whole}.\overline{{{3 * rest}}}", lambda: f"{sign}{whole}.{str(3 * rest) * 3}..."]
    if is_decimal(value) and (value.denominator > 1 or size < 10**9):
        ways += [lambda: _decimal(value)]
        if size < 1 and value.denominator > 1:
            ways += [lambda: _decimal(value).replace("0.", ".", 1)]
    small, tens = size, 0
    while small and small.denominator > 1 and tens > -40 and (small * 10).denominator < small.denominator:
        small, tens = small * 10, tens - 1
    if small.denominator == 1 and tens < -3:
        ways += [lambda: rf"{sign}{small} \cdot 10^{{{tens}}}", lambda: f"{sign}{small}e{tens}"]
    text = rng.choice(ways)()
    return text.replace("-", rng.choice(["-", "-", "−", "–"]))


def _near(value: Fraction, rng: random.Random) -> Fraction:
    """Another number that is easily taken for this one."""
    other = rng.choice(
        [
            -value,
            value + 1,
            value * 2,
            1 / value if value else Fraction(1),
            value * 10,
            value / 10,
            value + Fraction(1, 10**9),
            value * (1 + Fraction(1, 10**17)),
            Fraction(value.numerator, value.denominator + 1),
        ]
    )
    return other if other != value else value + 1


def _numbers(rng: random.Random, same: bool) -> tuple[str, str]:
    value = number(rng)
    return write_number(value, rng), write_number(value if same else _near(value, rng), rng)


def _quantities(rng: random.Random, same: bool) -> tuple[str, str]:
    name = rng.choice(list(UNITS))
    forms, dimension, factor = UNITS[name]
    value = abs(Fraction(rng.randrange(1, 4000), rng.choice([1, 1, 10, 4])))
    other, other_forms = value, forms
    if same and rng.random() < 0.3:
        alike = rng.choice([unit for unit in UNITS.values() if unit[1] == dimension])
        other, other_forms = value * factor / alike[2], alike[0]
    elif not same and rng.random() < 0.6:
        other_forms, _, other_factor = rng.choice([u for n, u in UNITS.items() if n != name])
        if UNITS and dimension == next(u[1] for u in UNITS.values() if u[0] == other_forms) and factor == other_factor:
            other = value + 1
    elif not same:
        other = _near(value, rng)
    return _plain(value, rng) + rng.choice(forms), _plain(other, rng) + rng.choice(other_forms)


def _plain(value: Fraction, rng: random.Random) -> str:
    if value.denominator == 1:
        return str(value)
    return _decimal(value) if is_decimal(value) else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _clock(minutes: int, rng: random.Random) -> str:
    hour, minute = divmod(minutes, 60)
    half = "a" if hour < 12 else "p"
    twelve = hour % 12 or 12
    forms = [
        f"{twelve}:{minute:02} {half}m",
        rf"{twelve}:{minute:02} \text{{ {half}.m.}}",
        f"{twelve}:{minute:02} {half.upper()}M",
    ]
    forms += [rf"{twelve}\!:\!{minute:02} \text{{ {half}.m.}}", f"{twelve}:{minute:02}{half}.m."]
    return rng.choice(forms)


def _times(rng: random.Random, same: bool) -> tuple[str, str]:
    minutes = rng.randrange(24 * 60)
    other = minutes if same else rng.choice([(minutes + 720) % 1440, minutes // 2, (minutes + 1) % 1440])
    if other == minutes and not same:
        other = (minutes + 1) % 1440
    if rng.random() < 0.3:
        hour = rng.randrange(1, 13)
        minute = rng.randrange(60)
        gold = f"{hour}:{minute:02}"
        if same:
            return gold, rng.choice([f"{hour:02}:{minute:02}", gold, f"{hour} : {minute:02}"])
        return gold, f"{hour % 12 + 1}:{minute:02}" if rng.random() < 0.5 else f"{hour}:{(minute + 30) % 60:02}"
    return _clock(minutes, rng), _clock(other, rng)


def _choices(rng: random.Random, same: bool) -> tuple[str, str]:
    letters = "ABCDEFGH"
    letter = rng.choice(letters)
    other = letter if same else rng.choice(letters.replace(letter, ""))
    forms = ["{}", "({})", r"\text{{({})}}", r"\text{{{}}}", "{}.", "the answer is {}.", r"\textbf{{({})}}", "**{}**"]
    return rng.choice(forms[:4]).format(letter), rng.choice(forms).format(other)


def _word(rng: random.Random, same: bool) -> tuple[str, str]:
    word = rng.choice(WORDS)
    if same:
        other = rng.choice([word, word.lower(), word.capitalize()])
    else:
        letters = list(word)
        rng.shuffle(letters)
        other = rng.choice(["".join(letters), rng.choice(WORDS), word[:-1], word + "s"])
        if other.lower() == word.lower():
            other = word + "x"
    form = rng.choice(["{}", r"\text{{{}}}", r"\mathrm{{{}}}", r"\textbf{{{}}}", "{}."])
    return rng.choice(["{}", r"\text{{{}}}"]).format(word), form.format(other)


def _sequences(rng: random.Random, same: bool) -> tuple[str, str]:
    letters = rng.choice(["HT", "ABC", "RGB", "01"[:0] + "WBR"])
    word = "".join(rng.choice(letters) for _ in range(rng.randrange(2, 6)))
    other = list(word)
    if not same:
        rng.shuffle(other)
        if "".join(other) == word:
            other = [*word, letters[0]]
    return word, rng.choice(["{}", r"\text{{{}}}"]).format("".join(other))


def _letters(rng: random.Random, same: bool) -> tuple[str, str]:
    letter = rng.choice("mnkabcMNKABXx")
    return letter, letter if same else letter.swapcase()


def _several(rng: random.Random, same: bool, ordered: bool) -> tuple[str, str]:
    values = rng.sample(range(-30, 60), rng.randrange(2, 5))
    fractions = [Fraction(value, rng.choice([1, 1, 1, 2, 3])) for value in values]
    if len(set(fractions)) < len(fractions):
        fractions = [Fraction(value) for value in values]
    other = list(fractions)
    if not same:
        change = rng.randrange(3)
        if change == 0 and ordered:
            other = other[1:] + other[:1]
        elif change == 1:
            other = other[:-1] if len(other) > 2 else [*other, Fraction(99)]
        else:
            other[rng.randrange(len(other))] += 100
    elif not ordered:
        rng.shuffle(other)

    def write(items: list[Fraction]) -> str:
        texts = [_latex(item, rng) for item in items]
        if ordered:
            return rng.choice([r"({})", r"\left({}\right)", "$({})$"]).format(rng.choice([", ", ","]).join(texts))
        form = rng.choice(["{}", r"\{{{}\}}", r"\left\{{{}\right\}}", "and"])
        if form == "and":
            return ", ".join(texts[:-1]) + rng.choice([" and ", r" \text{ and } ", r"\text{ or }"]) + texts[-1]
        return form.format(rng.choice([", ", "; "]).join(texts))

    return write(fractions), write(other)


def _latex(value: Fraction, rng: random.Random) -> str:
    if value.denominator == 1:
        return str(value)
    sign = "-" if value < 0 else ""
    latex = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return rng.choice([latex, f"{value.numerator}/{value.denominator}"])


def _intervals(rng: random.Random, same: bool) -> tuple[str, str]:
    low = Fraction(rng.randrange(-20, 20), rng.choice([1, 2, 3]))
    high = low + rng.randrange(1, 9)
    brackets = rng.choice(["()", "[)", "(]", "[]"])
    other, ends = brackets, (low, high)
    if not same:
        if rng.random() < 0.5:
            other = rng.choice([b for b in ("()", "[)", "(]", "[]") if b != brackets])
        else:
            ends = rng.choice([(low, high + 1), (low - 1, high), (-high, -low)])
            if ends == (low, high):
                ends = (low, high + 1)
    written = rng.choice(["{}{}, {}{}", r"\left{}{}, {}\right{}", r"x \in {}{},{}{}"])
    return (
        f"{brackets[0]}{_latex(low, rng)}, {_latex(high, rng)}{brackets[1]}",
        written.format(other[0], _latex(ends[0], rng), _latex(ends[1], rng), other[1]),
    )


def _assignments(rng: random.Random, same: bool) -> tuple[str, str]:
    value, name = number(rng), rng.choice(["x", "k", "AB", "n", r"\theta", "f(2)", "x_1"])
    other = value if same else _near(value, rng)
    gold, answer = write_number(value, rng), write_number(other, rng)
    gold = f"{name} = {gold}" if rng.random() < 0.5 else gold
    return gold, f"{name} = {answer}"


def _bases(rng: random.Random, same: bool) -> tuple[str, str]:
    base = rng.randrange(2, 10)
    value = rng.randrange(base, 4000)
    other = value if same else value + rng.choice([1, 2, base])

    def digits(number: int) -> str:
        text = ""
        while number:
            number, digit = divmod(number, base)
            text = str(digit) + text
        return text

    return f"{digits(value)}_{base}", rng.choice(["{}_{}", "{}_{{{}}}"]).format(digits(other), base)


def _ratios(rng: random.Random, same: bool) -> tuple[str, str]:
    a, b = rng.randrange(1, 40), rng.randrange(61, 99)
    gold, other = f"{a}:{b}", f"{a}:{b + 1}" if rng.random() < 0.5 else f"{b}:{a}"
    return gold, rng.choice([f"{a} : {b}", f"{3 * a}:{3 * b}"]) if same else other


def _polynomials(rng: random.Random, same: bool) -> tuple[str, str]:
    a, b, c = rng.randrange(1, 6), rng.randrange(-6, 7), rng.randrange(-6, 7)
    gold = sympy.expand((a * X + b) * (X + c))
    other = (a * X + b) * (X + c + (0 if same else 1))
    assert (sympy.expand(gold - other) == 0) == same
    left = rng.choice([str(gold), sympy.latex(gold), str(gold).replace("**", "^")])
    right = rng.choice([f"({a}x + {b})(x + {c if same else c + 1})".replace("+ -", "- "), sympy.latex(other)])
    return left, right


def _surds(rng: random.Random, same: bool) -> tuple[str, str]:
    a, b = rng.randrange(2, 9), rng.choice([2, 3, 5, 6, 7])
    gold = sympy.sqrt(a * a * b)
    forms = [rf"{a}\sqrt{{{b}}}", f"{a}√{b}", f"{a}*sqrt({b})", rf"\sqrt{{{a * a * b}}}", rf"{a} \cdot \sqrt{b}"]
    wrong = [rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b}}}", rf"-{a}\sqrt{{{b}}}", rf"{b}\sqrt{{{a * a + 1}}}"]
    assert sympy.simplify(gold - a * sympy.sqrt(b)) == 0
    return sympy.latex(gold), rng.choice(forms if same else wrong)


def _with_pi(rng: random.Random, same: bool) -> tuple[str, str]:
    a, b = rng.randrange(1, 30), rng.randrange(2, 12)
    value = Fraction(a, b)
    top = "" if value.numerator == 1 else str(value.numerator)
    forms = [
        rf"\frac{{{value.numerator}}}{{{value.denominator}}}\pi",
        f"{a}*pi/{b}",
        f"{a}π/{b}",
        rf"\frac{{{a}\pi}}{{{b}}}",
    ]
    wrong = [rf"\frac{{{a + b}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a}\pi^2}}{{{b}}}", f"{a}*pi*{b}"]
    gold = rf"\frac{{{top}\pi}}{{{value.denominator}}}" if value.denominator > 1 else rf"{top}\pi"
    return gold, rng.choice(forms if same else wrong)


CHEAP: dict[str, Callable[[random.Random, bool], tuple[str, str]]] = {
    "number": _numbers,
    "quantity": _quantities,
    "time": _times,
    "choice": _choices,
    "word": _word,
    "sequence": _sequences,
    "letter": _letters,
    "list": lambda rng, same: _several(rng, same, ordered=False),
    "tuple": lambda rng, same: _several(rng, same, ordered=True),
    "interval": _intervals,
    "assignment": _assignments,
    "base": _bases,
    "ratio": _ratios,
}
ALGEBRA: dict[str, Callable[[random.Random, bool], tuple[str, str]]] = {
    "polynomial": _polynomials,
    "surd": _surds,
    "pi": _with_pi,
}
#: Kinds of which no value of the one is a value of the other, however both are written.
STRANGERS = [
    ("number", "word"), ("number", "sequence"), ("time", "number"), ("choice", "number"), ("word", "time"), ("tuple", "number"),
    ("interval", "number"), ("tuple", "word"), ("list", "word"), ("quantity", "time"), ("base", "word"), ("sequence", "choice"),
    ("quantity", "word"), ("interval", "word"), ("time", "tuple"), ("word", "choice"),
]  # fmt: skip


def pairs(kinds: dict[str, Callable[[random.Random, bool], tuple[str, str]]], n: int, seed: int) -> list[PairOfAnswers]:
    """`n` pairs of each kind in turn, half of them the same."""
    rng = random.Random(seed)
    names = list(kinds)
    found = []
    for index in range(n):
        kind, same = names[index % len(names)], rng.random() < 0.5
        gold, answer = kinds[kind](rng, same)
        found.append(PairOfAnswers(kind, gold, answer, same))
    return found


def strangers(n: int, seed: int) -> list[PairOfAnswers]:
    """Pairs of different kinds."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        kinds = STRANGERS[index % len(STRANGERS)]
        one, other = (CHEAP[kind](rng, True)[0] for kind in (kinds if rng.random() < 0.5 else kinds[::-1]))
        found.append(PairOfAnswers("/".join(kinds), one, other, False))
    return found
