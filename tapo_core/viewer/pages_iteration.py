"""One iteration of a run, and the group of rollouts that a query had in it."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tapo_core.records import RolloutKind
from tapo_core.store.iteration_counts import IterationCounts, iteration_counts
from tapo_core.store.view_pages import (
    ITERATION_TABLES,
    constructions,
    group_members,
    query_facts,
    query_groups,
)
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import NotThereError, Runs, RunsHere

router = APIRouter()

_N_QUERIES = 200  #: on one page
_N_CONSTRUCTIONS = 100


def find_iteration(runs: Runs, run: str, iteration: int) -> tuple[IterationCounts, int | None, int | None]:
    """An iteration of a run, and the numbers of those before and after it.

    Raises:
        NotThereError: nothing of it is committed.
    """
    counts = {one.iteration: one for one in iteration_counts(runs.commits(run))}
    if iteration not in counts:
        there = f"{min(counts)} to {max(counts)} are" if counts else "none is"
        raise NotThereError(f"iteration {iteration} of run {run} has no commit; {there} there")
    numbers = sorted(counts)
    place = numbers.index(iteration)
    before = numbers[place - 1] if place else None
    after = numbers[place + 1] if place + 1 < len(numbers) else None
    return counts[iteration], before, after


@router.get("/run/{run}/iteration/{iteration}")
def one_iteration(
    request: Request,
    runs: RunsHere,
    run: str,
    iteration: int,
    kind: RolloutKind = RolloutKind.TRAINING,
    after: str | None = None,
) -> HTMLResponse:
    """An iteration's numbers, stages, queries (of one kind of rollout, those after an id) and constructions."""
    counts, earlier, later = find_iteration(runs, run, iteration)
    with runs.open(run, [iteration], ITERATION_TABLES) as connection:
        groups = query_groups(connection, iteration, kind, after, _N_QUERIES + 1)
        made = constructions(connection, iteration, limit=_N_CONSTRUCTIONS + 1)
    return page(
        request,
        "iteration.html",
        run=run,
        counts=counts,
        earlier=earlier,
        later=later,
        kind=kind,
        after=after,
        groups=groups[:_N_QUERIES],
        next_after=groups[_N_QUERIES - 1].query_id if len(groups) > _N_QUERIES else None,
        constructions=made[:_N_CONSTRUCTIONS],
        more_constructions=len(made) > _N_CONSTRUCTIONS,
    )


@router.get("/run/{run}/iteration/{iteration}/query/{query_id}")
def one_group(request: Request, runs: RunsHere, run: str, iteration: int, query_id: str) -> HTMLResponse:
    """The rollouts of a query in an iteration side by side, and the constructions made of them."""
    find_iteration(runs, run, iteration)
    with runs.open(run, [iteration], ITERATION_TABLES) as connection:
        query = query_facts(connection, query_id)
        if query is None:
            raise NotThereError(f"run {run} has no query {query_id!a}; the page of the iteration lists its queries")
        members = group_members(connection, iteration, query.query_id)
        made = constructions(connection, iteration, query_id=query.query_id, limit=_N_CONSTRUCTIONS)
    return page(request, "group.html", run=run, iteration=iteration, query=query, members=members, constructions=made)
