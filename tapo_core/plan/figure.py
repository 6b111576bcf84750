"""One line of a plan."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its unit."""

    what: str
    value: float | int | str | None  #: None: not known
    unit: str
    basis: str  #: how it was come by
