"""What the sections of the configuration have in common, and what a key is for.

Every key is one of four kinds. A key that **shapes** the trajectories is part of the configuration's digest, and a run that
exists takes another value of it only as a recorded revision (`revisions`). A key that is **fixed** shapes them too, and keeps
its value for the whole run. A key that **operates** the run changes no stored trajectory, except in the last digits of sums: it
may have another value each time the run is resumed. A key that **names** the run says what it is called and where it is.

A key shapes, unless it is declared otherwise where it is defined: ``Annotated[int, OPERATES]`` or
``Annotated[str, fixed("why")]``. The declaration of a section holds for all keys in it that have none of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Kind(StrEnum):
    """What a key does to a run."""

    SHAPES = "shapes"
    FIXED = "fixed"
    OPERATES = "operates"
    NAMES = "names"

    @property
    def in_digest(self) -> bool:
        """Whether a run with another value makes other trajectories."""
        return self in (Kind.SHAPES, Kind.FIXED)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a key is for."""

    kind: Kind
    why: str = ""  #: why a run cannot change it, if it cannot


SHAPES = Purpose(Kind.SHAPES)
OPERATES = Purpose(Kind.OPERATES)
NAMES = Purpose(Kind.NAMES, "it says which run it is")


def fixed(why: str) -> Purpose:
    """A key that keeps its value for the whole run. `why` completes the sentence "it cannot be changed: ..."."""
    return Purpose(Kind.FIXED, why)


class Section(BaseModel):
    """Frozen; unknown keys are errors; the texts below the fields are their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def purposes(model: type[BaseModel], inherited: Purpose = SHAPES, prefix: str = "") -> Iterator[tuple[str, Purpose]]:
    """Every key of a model, as in ``update.learning_rate``, with what it is for, in the order of the definitions."""
    for name, field in model.model_fields.items():
        own = next((item for item in field.metadata if isinstance(item, Purpose)), inherited)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from purposes(field.annotation, own, f"{prefix}{name}.")
        else:
            yield prefix + name, own
