"""All runs."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tapo_core.viewer.render import page
from tapo_core.viewer.runs import RunsHere

router = APIRouter()


@router.get("/")
def all_runs(request: Request, runs: RunsHere) -> HTMLResponse:
    """Every run that was found, the newest first."""
    return page(request, "runs.html", runs=sorted(runs.found()))
