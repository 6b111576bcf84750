"""The kinds of answer: what `reading.read` finds that a text is, before anything is compared."""

from dataclasses import dataclass
from fractions import Fraction

from tapo_core.verification.expressions import Expression
from tapo_core.verification.units import Unit


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number or an expression, with the unit that was written after it, if any."""

    text: str
    expression: Expression
    unit: Unit | None = None

    @property
    def value(self) -> Fraction | None:
        """The exact value in the unit as written; None where it is not rational."""
        return self.expression.value


@dataclass(frozen=True, slots=True)
class Time:
    """A time of day, or a duration with a colon."""

    text: str
    seconds: int  #: since midnight, or since noon where a p.m. may be missing
    half: str | None  #: "am", "pm", "24" for an hour that has no other reading, None where it is not told


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers with colons between them."""

    text: str
    parts: tuple[Fraction, ...]
    time: Time | None  #: what it is where it may be a time


@dataclass(frozen=True, slots=True)
class InBase:
    """Digits with a base: 204_5."""

    text: str
    digits: str
    base: int
    value: Fraction


@dataclass(frozen=True, slots=True)
class Choice:
    """The letter of one of several given answers, and what was written after it."""

    text: str
    letter: str
    marked: bool  #: whether brackets or a full stop told that it is a choice
    rest: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Words, or a sequence of letters such as HHT."""

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Collection:
    """Several answers. Brackets: none for a bare list, "()" and "⟨⟩" for a tuple, "{}" for a set, "{" for a set or a list in
    braces of LaTeX, "[]", "[)", "(]" for intervals or lists.
    """

    text: str
    brackets: str
    items: tuple["Answer", ...]
    joint: str | None = None  #: "and" or "or", where one of them joins all


@dataclass(frozen=True, slots=True)
class SetUnion:
    """A union of sets or intervals."""

    text: str
    parts: tuple["Answer", ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides with relation signs between them: an equation, an inequality, or a name with its value."""

    text: str
    latex: str | None  #: for computer algebra, where every side was read
    sides: tuple[str, ...]
    signs: tuple[str, ...]
    name: str | None  #: what is set equal to something, where that is all it says
    value: "Answer | None"  #: what the name is


@dataclass(frozen=True, slots=True)
class Unread:
    """What the grammar cannot read. `why`: set where it has two meanings."""

    text: str
    why: str | None = None


Answer = Quantity | Time | Ratio | InBase | Choice | Words | Collection | SetUnion | Relation | Unread
