"""All runs."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tapo_core.errors import TapoError
from tapo_core.statistics import Estimate
from tapo_core.store.iteration_counts import iteration_counts
from tapo_core.store.view_pages import RUN_TABLES, RunFacts, run_facts
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import Runs, RunsHere

router = APIRouter()


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run in the list; `problem` when its store cannot be read."""

    name: str
    problem: str | None = None
    facts: RunFacts | None = None
    newest: int | None = None  #: iteration with a commit
    n_trained: int = 0
    n_rollouts: int = 0
    committed_at: str = ""
    accuracy: Estimate | None = None  #: of the newest iteration that has one
    held_out: Estimate | None = None
    held_out_at: int | None = None


@router.get("/")
def all_runs(request: Request, runs: RunsHere) -> HTMLResponse:
    """Every run that was found, the one with the newest commit first."""
    lines = sorted((_line(runs, name) for name in runs.found()), key=lambda line: line.name)
    lines.sort(key=lambda line: line.committed_at, reverse=True)
    return page(request, "runs.html", lines=lines, folders=[str(folder) for folder in runs.folders])


def _line(runs: Runs, name: str) -> RunLine:
    """A run in a line. A damaged one is shown with what is wrong with it, beside the others."""
    try:
        counts = iteration_counts(runs.commits(name))
        facts = runs.remembered(name, RUN_TABLES, run_facts)
    except TapoError as error:
        return RunLine(name, problem=str(error))
    if not counts:
        return RunLine(name, facts=facts)
    evaluated = [one for one in counts if "held_out" in one.evaluated]
    return RunLine(
        name=name,
        facts=facts,
        newest=counts[-1].iteration,
        n_trained=sum(one.is_trained for one in counts),
        n_rollouts=sum(one.n_rollouts for one in counts),
        committed_at=max(one.committed_at for one in counts),
        accuracy=next((one.accuracy for one in reversed(counts) if one.accuracy), None),
        held_out=evaluated[-1].evaluated["held_out"] if evaluated else None,
        held_out_at=evaluated[-1].iteration if evaluated else None,
    )
