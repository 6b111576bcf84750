"""One trajectory: its text in spans and tokens, what it was made from, how it was judged, and how it counted."""

import math
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from tapo_core.errors import UserError
from tapo_core.ids import iteration_of
from tapo_core.store.lineage import find_id
from tapo_core.store.view_trajectory import TRAJECTORY_TABLES, Trajectory, read_trajectory
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import NotThereError, Runs, RunsHere
from tapo_core.viewer.spans import Cut, Span, Token, cut, rollout_spans
from tapo_core.viewer.tokenizer import find_tokenizer
from tapo_core.viewer.urls import lineage_url, trajectory_url

router = APIRouter()

_WHOLE_ID = 36  #: characters
#: Rows that the table of tokens has on one page.
LISTED = 2000
#: Shades for weights, whose logarithms they divide evenly between the bounds of the paper (0.01 and 10).
SHADES = 7


@dataclass(frozen=True, slots=True)
class TrajectoryView:
    """What the template shows of a trajectory."""

    found: Trajectory
    cut: Cut
    reference_spans: tuple[Span, ...]
    wrong_spans: tuple[Span, ...]  #: of the wrong rollout, its first error apart
    notes: tuple[str, ...]  #: what cannot be shown, and why
    first_token: int  #: of those listed
    listed: tuple[Token, ...]


def view_trajectory(found: Trajectory, runs: Runs, run: str, first_token: int = 0) -> TrajectoryView:
    """A trajectory made ready to be shown."""
    decode, missing = find_tokenizer(runs.folder(run), found.policies)
    pieces = cut(found, decode)
    notes = [*pieces.notes, *([missing] if missing and pieces.tokens else []), *_invisible(pieces)]
    location = found.locations[0] if found.locations else None
    return TrajectoryView(
        found=found,
        cut=pieces,
        reference_spans=() if found.reference is None else rollout_spans(found.reference.rollout, None),
        wrong_spans=() if found.wrong is None else rollout_spans(found.wrong.rollout, location),
        notes=tuple(notes),
        first_token=first_token,
        listed=pieces.tokens[first_token : first_token + LISTED],
    )


def load_trajectory(runs: Runs, run: str, trajectory_id: str) -> Trajectory | None:
    """The trajectory with a whole id, if it is where its id says."""
    try:
        iteration = iteration_of(trajectory_id)
    except ValueError:
        return None
    with runs.open(run, {iteration}, TRAJECTORY_TABLES) as connection:
        return read_trajectory(connection, trajectory_id)


@router.get("/run/{run}/trajectory/{trajectory_id}")
def trajectory(request: Request, runs: RunsHere, run: str, trajectory_id: str, first: int = 0) -> Response:
    """A rollout or a construction. The beginning of an id leads to the whole one, another thing's id to its lineage."""
    found = load_trajectory(runs, run, trajectory_id) if len(trajectory_id) == _WHOLE_ID else None
    if found is None:
        try:
            kind, whole_id, _ = find_id(runs.folder(run), trajectory_id)
        except UserError as error:
            raise NotThereError(f"run {run}: {error}") from error
        if whole_id == trajectory_id and kind in ("rollout", "correction"):
            raise NotThereError(f"run {run}: {kind} {whole_id} is not in the iteration that its id names")
        there = trajectory_url if kind in ("rollout", "correction") else lineage_url
        return RedirectResponse(there(run, whole_id), status_code=307)
    return trajectory_page(request, run, view_trajectory(found, runs, run, max(0, first)))


def trajectory_page(request: Request, run: str, view: TrajectoryView) -> HTMLResponse:
    """The page of one trajectory."""
    return page(request, "trajectory.html", run=run, view=view, **TOOLS)


def shade(weight: float | None) -> str:
    """The class of a token's shade: from ``w0`` (0.01 or less) to ``w6`` (10 or more); none for a token without a weight."""
    if weight is None:
        return ""
    if weight <= 0:
        return "w-none"
    low, high = math.log(0.01), math.log(10.0)
    share = (math.log(weight) - low) / (high - low)
    return f"w{min(SHADES - 1, max(0, int(share * SHADES)))}"


def token_title(token: Token) -> str:
    """What is known of a token, in words and numbers. (Its text is never part of it.)"""
    known = (
        ("OTS weight", token.weight),
        ("logprob", token.logprob),
        ("entropy", token.entropy),
        ("sampler logprob", token.sampled_logprob),
    )
    told = ", ".join(f"{name} {value:.4g}" for name, value in known if value is not None)
    return f"token {token.index}" + (f": {told}" if told else "")


def quoted(text: str) -> str:
    """A text in quotes, with escapes in place of what cannot be seen."""
    return "".join(('"', *(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text), '"'))


#: What the templates of trajectories ask for besides the trajectory.
TOOLS: dict[str, Any] = {
    "shade": shade,
    "token_title": token_title,
    "quoted": quoted,
    "LISTED": LISTED,
    "SHADES": SHADES,
}


def _invisible(pieces: Cut) -> list[str]:
    """A line about characters of a text that cannot be seen, or that turn the order of those beside them around."""
    text = "".join(span.text for span, _ in pieces.parts)
    found = Counter(c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t")
    told = ", ".join(f"U+{ord(c):04X} ({count})" for c, count in sorted(found.items()))
    return [f"Its text has characters that cannot be seen: {told}."] if told else []
