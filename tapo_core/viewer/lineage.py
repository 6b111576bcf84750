"""Where anything with an id came from, and what came of it: a graph to click through, and the same as a list."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from tapo_core.errors import UserError
from tapo_core.store import LineageNode
from tapo_core.store import lineage as trace
from tapo_core.store.lineage import to_trees
from tapo_core.text import shortened
from tapo_core.viewer.graph import HEIGHT, WIDTH, lay_out
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import NotThereError, RunsHere
from tapo_core.viewer.urls import lineage_url

router = APIRouter()

MAX_STEPS = 200  #: each way; more would be no picture
PER_COLUMN = 12  #: boxes in a column of the graph
_LABEL = 32  #: characters that fit into a box


@router.get("/run/{run}/lineage/{subject_id}")
def lineage(request: Request, runs: RunsHere, run: str, subject_id: str) -> Response:
    """The lineage of the thing with an id, or with the only id that begins so."""
    try:
        found = trace(runs.folder(run), subject_id, max_edges=MAX_STEPS, commits=runs.commits(run))
    except UserError as error:
        raise NotThereError(f"run {run}: {error}") from error
    if found.start.id != subject_id:
        return RedirectResponse(lineage_url(run, found.start.id), status_code=307)
    return page(
        request,
        "lineage.html",
        run=run,
        found=found,
        graph=lay_out(found, PER_COLUMN),
        trees=to_trees(found),
        is_trajectory=is_trajectory,
        fitting=fitting,
        box=(WIDTH, HEIGHT),
        MAX_STEPS=MAX_STEPS,
    )


def fitting(text: str) -> str:
    """As much of a text as a box has room for."""
    return shortened(text, _LABEL)


def is_trajectory(node: LineageNode) -> bool:
    """Whether a node has a page as a trajectory."""
    return node.kind in ("rollout", "correction")
