"""Two policy versions, problem by problem, and what differs between their runs."""

import functools
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tapo_core.comparison import (
    CONFIDENCE,
    RESAMPLES,
    SETTINGS_TABLES,
    PolicyAt,
    Problem,
    compare_problems,
    difference,
    settings,
    shared_problems,
)
from tapo_core.errors import UserError
from tapo_core.statistics import Comparison
from tapo_core.store.iteration_counts import iteration_counts
from tapo_core.text import cell_text
from tapo_core.viewer.charts import Chart, Drawn, Point, Series, draw
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import Runs, RunsHere

router = APIRouter()

_N_PROBLEMS = 100  #: shown, those that differ most first
_KEPT = 32  #: comparisons: each draws `RESAMPLES` times


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: ``run:iteration`` as the address has it."""

    run: str
    iteration: int

    def __str__(self) -> str:
        return f"{self.run}:{self.iteration}"


@router.get("/compare")
def compare(request: Request, runs: RunsHere, a: str = "", b: str = "", dataset: str = "held_out") -> HTMLResponse:
    """The comparison of two policy versions; without both, the form that asks for them."""
    evaluated = {
        f"{name}:{one.iteration}": list(one.evaluated)
        for name in sorted(runs.found())
        for one in reversed(iteration_counts(runs.commits(name)))
        if one.evaluated
    }
    problems: tuple[Problem, ...] = ()
    found = problem = sides = None
    differing: list[list[str]] = []
    charts: list[Drawn] = []
    if a and b:
        try:
            sides = (_side(runs, a), _side(runs, b))
            problems, found = _compared(
                _policy(runs, sides[0]), _policy(runs, sides[1]), dataset, *(_state(runs, side.run) for side in sides)
            )
        except UserError as error:
            problem = str(error)
    if sides is not None:
        charts = _charts(runs, sides, dataset)
        differing = _differing(runs, sides)
    return page(
        request,
        "compare.html",
        status=400 if problem and sides is None else 200,
        a=a,
        b=b,
        dataset=dataset,
        datasets=sorted({name for names in evaluated.values() for name in names} | {dataset}),
        evaluated=evaluated,
        sides=sides,
        found=found,
        problem=problem,
        problems=problems[:_N_PROBLEMS],
        tally=_tally(problems),
        settings=differing,
        charts=charts,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
    )


def _side(runs: Runs, text: str) -> Side:
    """``run:iteration``, whose run there is.

    Raises:
        NotThereError, UserError: it is not.
    """
    run, colon, iteration = text.rpartition(":")
    if not colon or not iteration.isdecimal():
        raise UserError(f"{text!a}: write a policy version as its run, a colon and the iteration, as in nano-tapo:10")
    runs.folder(run)
    return Side(run, int(iteration))


def _policy(runs: Runs, side: Side) -> PolicyAt:
    return PolicyAt(runs.folder(side.run), side.iteration)


def _state(runs: Runs, run: str) -> str:
    """What changes when something is committed: a comparison is kept for as long as it does not."""
    commits = runs.commits(run)
    return commits[-1].chain_digest if commits else ""


@functools.lru_cache(_KEPT)
def _compared(first: PolicyAt, second: PolicyAt, dataset: str, *_states: str) -> tuple[tuple[Problem, ...], Comparison]:
    """The problems that both have, those that differ most first, and the comparison."""
    problems = shared_problems(first, second, dataset)
    ordered = sorted(problems, key=lambda one: (-abs(one.first - one.second), one.query_ids))
    return tuple(ordered), compare_problems(problems, dataset)


def _tally(problems: tuple[Problem, ...]) -> tuple[int, int, int]:
    """Problems on which the first does better, as well, worse."""
    better = sum(one.first > one.second for one in problems)
    worse = sum(one.first < one.second for one in problems)
    return better, len(problems) - better - worse, worse


def _differing(runs: Runs, sides: tuple[Side, Side]) -> list[list[str]]:
    frame = difference(*(runs.remembered(side.run, SETTINGS_TABLES, settings) for side in sides))
    return [[cell_text(value) for value in row] for row in frame.itertuples(index=False)]


def _charts(runs: Runs, sides: tuple[Side, Side], dataset: str) -> list[Drawn]:
    """Held-out pass@1 and training accuracy of both runs, one beside the other."""
    names = dict.fromkeys(side.run for side in sides)
    counts = {name: iteration_counts(runs.commits(name)) for name in names}
    passes = [
        Series(
            name,
            [Point(c.iteration, e.value, e.low, e.high) for c in found if (e := c.evaluated.get(dataset)) is not None],
        )
        for name, found in counts.items()
    ]
    accuracies = [
        Series(name, [Point(c.iteration, e.value, e.low, e.high) for c in found if (e := c.accuracy) is not None])
        for name, found in counts.items()
    ]
    charts = [
        Chart(f"pass@1 on {dataset}", passes, "Intervals are those of the evaluations.", percent=True),
        Chart(
            "Accuracy of the training rollouts",
            accuracies,
            "Wilson's 95% interval of the counts, as if rollouts were independent.",
            percent=True,
        ),
    ]
    return [drawn for one in charts if (drawn := draw(one)) is not None]
