"""Units of measurement: which names mean the same, and how they convert."""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

DEGREE_KIND = (("angle", 1),)

#: Dimension -> names in order of their size in the first one's, with that size. Names of one to three letters are symbols, whose
#: case counts.
_TABLE: dict[str, dict[str, Fraction]] = {
    "length": {
        "m meter metre": Fraction(1), "mm millimeter millimetre": Fraction(1, 1000),
        "cm centimeter centimetre": Fraction(1, 100), "dm decimeter decimetre": Fraction(1, 10),
        "km kilometer kilometre": Fraction(1000), "nm nanometer nanometre": Fraction(1, 10**9),
        "in inch inches": Fraction(254, 10000), "ft foot feet": Fraction(3048, 10000), "yd yard": Fraction(9144, 10000),
        "mi mile": Fraction(1609344, 1000),
    },
    "time": {
        "s sec second": Fraction(1), "ms millisecond": Fraction(1, 1000), "min minute": Fraction(60),
        "h hr hrs hour": Fraction(3600), "day days": Fraction(86400), "week": Fraction(604800),
    },
    "mass": {
        "g gram gramme": Fraction(1), "mg milligram": Fraction(1, 1000), "kg kilogram": Fraction(1000),
        "tonne": Fraction(10**6),
    },
    "volume": {"L l liter litre": Fraction(1), "mL ml milliliter millilitre": Fraction(1, 1000)},
    "angle": {"degree deg": Fraction(1)},
    "radian": {"rad radian": Fraction(1)},
    "share": {"% percent percentage pct percents": Fraction(1)},
    "dollar": {"$ dollar usd": Fraction(1), "¢ cent": Fraction(1, 100)},
    "euro": {"€ euro eur": Fraction(1)},
    "pound sterling": {"£ gbp": Fraction(1)},
    "rupee": {"₹ rupee inr": Fraction(1)},
    "yen": {"¥ yen jpy": Fraction(1)},
    "electric": {"V volt": Fraction(1)}, "current": {"A ampere amp": Fraction(1)}, "power": {"W watt": Fraction(1)},
    "energy": {"J joule": Fraction(1), "kJ kilojoule": Fraction(1000)}, "force": {"N newton": Fraction(1)},
    "frequency": {"Hz hertz": Fraction(1)},
}  # fmt: skip
_COMPOUND = {"mph": "mile / hour", "kph": "km / hour", "kmh": "km / hour", "cc": "cm^3"}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_IGNORED = frozenset(("a", "an", "the", "of"))
_PIECE = re.compile(r"\s*(?:(?P<word>[A-Za-z]+\.?|[$%€£¥₹¢°])(?:\s*\^\s*\{?(?P<power>-?\d)\}?)?|(?P<over>/)|\*|-)")


def _names() -> dict[str, tuple[str, Fraction]]:
    found = {}
    for dimension, sizes in _TABLE.items():
        for names, size in sizes.items():
            for name in names.split():
                found[name] = (dimension, size)
                if len(name) > 3:
                    found[name + ("es" if name.endswith("ch") else "s")] = found[name]
    return found


_NAMES = _names()
#: Symbols that are a letter of algebra as well.
LETTERS = frozenset(name for name in _NAMES if len(name) == 1 and name.isalpha())


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of units."""

    kind: tuple[tuple[str, int], ...]  #: dimension, or the word itself where it is no unit that we know, with its power
    size: Fraction  #: in the first unit of each dimension
    known: bool  #: whether all of it is in the table
    words: frozenset[str]  #: as it was written, in the singular

    @property
    def is_percent(self) -> bool:
        """Whether a share is given in hundredths."""
        return self.kind == (("share", 1),)


def scale(text: str) -> tuple[int, str]:
    """A number word such as million that a unit begins with, as a factor, and the rest.

    >>> scale("million dollars"), scale("cm")
    ((1000000, 'dollars'), (1, 'cm'))
    """
    first, _, rest = text.strip().partition(" ")
    return (_SCALES[first.lower()], rest) if first.lower() in _SCALES else (1, text)


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """A unit as it is written after a number; None for a text that is none.

    >>> read_unit("cm^2") == read_unit("square centimeters"), read_unit("miles per hour").known
    (True, True)
    """
    text = " ".join(text.replace('"', " ").replace("°", " ° ").split())
    if not text:
        return None
    kinds: dict[str, int] = {}
    size, known, sign, pending = Fraction(1), True, 1, 1
    words: list[str] = []
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece is None:
            return None
        at = piece.end()
        word = (piece["word"] or "").rstrip(".")
        if piece["over"] or word.lower() == "per":
            sign = -1
            continue
        if not word or word.lower() in _IGNORED:
            continue
        if word.lower() in _POWERS:
            power = _POWERS[word.lower()]
            if word.lower().endswith("d") and words:  # meters squared
                kinds[next(reversed(kinds))] *= power
                continue
            pending = power
            continue
        if word.lower() in _COMPOUND:
            inner = read_unit(_COMPOUND[word.lower()])
            assert inner is not None
            for kind, power in inner.kind:
                kinds[kind] = kinds.get(kind, 0) + sign * power
            size *= inner.size**sign
            words.append(word.lower())
            continue
        power = int(piece["power"] or 1) * pending
        pending = 1
        word = "degree" if word == "°" else word
        found = _NAMES.get(word) or _NAMES.get(word.lower() if len(word) > 2 else word)
        if found is None:
            known = False
            found = (_singular(word.lower()), Fraction(1))
        kinds[found[0]] = kinds.get(found[0], 0) + sign * power
        size *= found[1] ** (sign * power)
        words.append(_singular(word if len(word) < 4 else word.lower()))
    if not words:
        return None
    # A litre is a cubic decimetre.
    if "volume" in kinds:
        size *= Fraction(1, 1000) ** kinds["volume"]
        kinds["length"] = kinds.get("length", 0) + 3 * kinds.pop("volume")
    product = tuple(sorted((name, power) for name, power in kinds.items() if power))
    return Unit(product, size, known, frozenset(words))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "ches", "shes", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 2 and not word.endswith("ss") else word
