"""Method "task": the query's own task family checks every step. Exact, and there for the built-in tasks only.

In a run on them it is the truth that the other methods are measured against, by SQL.
"""

from collections.abc import Sequence

from tapo_core.error_location.base import Attempt, Location, Means
from tapo_core.nano.families import FAMILIES
from tapo_core.nano.task import Problem

METHOD = "task"


def locate(attempts: Sequence[Attempt], _means: Means) -> list[Location]:
    """The first step of each attempt that its family's rules find wrong."""
    return [_first_wrong(attempt) for attempt in attempts]


def _first_wrong(attempt: Attempt) -> Location:
    family = FAMILIES.get(attempt.family or "")
    if family is None:
        return Location(METHOD, None, f"no rules for the family {attempt.family!r}")
    problem = Problem(family.name, attempt.level or 0, attempt.problem, attempt.gold)
    steps = [step.text for step in attempt.steps]
    try:
        index = family.first_error(problem, steps)
    except ValueError as error:  # a data set of one's own with a family of this name
        return Location(METHOD, None, str(error))
    return Location(METHOD, index, None if index is None else family.describe_error(problem, steps, index))
