"""Inequalities of one variable as the intervals that they are."""

from dataclasses import dataclass

from tapo_core.verification.kinds import Collection, Quantity, Relation
from tapo_core.verification.reading import read

_CLOSED = {"<": False, r"\le": True, ">": False, r"\ge": True}


@dataclass(frozen=True, slots=True)
class Bounded:
    """A variable and where it is."""

    variable: str
    interval: Collection


def as_interval(relation: Relation) -> Bounded | None:
    """The interval of ``x > 1`` or ``1 < x \\le 2``; None for other relations.

    >>> as_interval(read("2 > x")).interval.brackets
    '()'
    """
    sides, signs = list(relation.sides), list(relation.signs)
    if not all(sign in _CLOSED for sign in signs) or len({sign in (">", r"\ge") for sign in signs}) != 1:
        return None
    if signs[0] in (">", r"\ge"):
        sides.reverse()
        signs.reverse()
    if len(sides) == 3:
        low, variable, high = sides
        closed = (_CLOSED[signs[0]], _CLOSED[signs[1]])
    elif len(sides) == 2 and _is_variable(sides[0]):
        low, variable, high = r"-\infty", sides[0], sides[1]
        closed = (False, _CLOSED[signs[0]])
    elif len(sides) == 2 and _is_variable(sides[1]):
        low, variable, high = sides[0], sides[1], r"\infty"
        closed = (_CLOSED[signs[0]], False)
    else:
        return None
    ends = (read(low), read(high))
    if not _is_variable(variable) or not all(isinstance(end, Quantity) and end.unit is None for end in ends):
        return None
    brackets = ("[" if closed[0] else "(") + ("]" if closed[1] else ")")
    return Bounded(variable, Collection(relation.text, brackets, tuple(end for end in ends if end is not None)))


def _is_variable(side: str) -> bool:
    return len(side) == 1 and side.isalpha()
