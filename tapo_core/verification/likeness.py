"""What a comparison of two answers can find, and whom it asks."""

from collections.abc import Callable, Sequence
from enum import StrEnum


class Likeness(StrEnum):
    """What a comparison found."""

    SAME = "same"
    DIFFERENT = "different"
    UNCLEAR = "unclear"
    OPEN = "open"  #: computer algebra has to be asked first


SAME, DIFFERENT, UNCLEAR, OPEN = Likeness.SAME, Likeness.DIFFERENT, Likeness.UNCLEAR, Likeness.OPEN

#: Of a gold answer and an answer, both LaTeX that can be read in one way only: what computer algebra found, OPEN at first.
Ask = Callable[[str, str], Likeness]


def all_same(found: Sequence[Likeness]) -> Likeness:
    """The likeness of a whole whose parts all have to be the same."""
    for likeness in (DIFFERENT, OPEN, UNCLEAR):
        if likeness in found:
            return likeness
    return SAME


def same_if(same: bool) -> Likeness:
    """SAME or DIFFERENT."""
    return SAME if same else DIFFERENT
