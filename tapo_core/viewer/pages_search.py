"""Trajectories by what is in them and what became of them."""

import re
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tapo_core.errors import UserError
from tapo_core.records import ParseOutcome, RolloutKind, VerificationOutcome
from tapo_core.store.view_search import Filters, search
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import RunsHere
from tapo_core.viewer.urls import search_url

router = APIRouter()

_N_HITS = 50  #: on one page
_QUICK, _LONG = 0.2, 10.0  #: seconds to look for
_AROUND = 90  #: characters shown on either side of what was looked for
_KINDS = (*RolloutKind, "constructed")
_ERROR_KINDS = ("false_equation", "wrong_step", "not_located", "not_examined", "truncated", "no_answer")
_REWARDS = ("1", "0")


@router.get("/run/{run}/search")
def find(
    request: Request,
    runs: RunsHere,
    run: str,
    q: str = "",
    iteration: str = "",
    kind: str = "",
    verdict: str = "",
    error_kind: str = "",
    reward: str = "",
    parse_outcome: str = "",
    query: str = "",
    page_at: Annotated[str, Query(alias="page")] = "",
    long: bool = False,
) -> HTMLResponse:
    """Trajectories that have a text and fit the filters, from a place on; `long`: look for ten seconds."""
    filters = Filters(
        text=q.strip() or None,
        iteration=None if _one_of("iteration", iteration, None) is None else int(iteration),
        kind=_one_of("kind", kind, _KINDS),
        verdict=_one_of("verdict", verdict, tuple(VerificationOutcome)),
        error_kind=_one_of("error_kind", error_kind, _ERROR_KINDS),
        reward=None if _one_of("reward", reward, _REWARDS) is None else float(reward),
        parse_outcome=_one_of("parse_outcome", parse_outcome, tuple(ParseOutcome)),
        query=query or None,
    )
    found = search(
        runs.folder(run),
        runs.commits(run),
        filters,
        position=page_at or None,
        limit=_N_HITS,
        seconds=_LONG if long else _QUICK,
    )
    asked = {"q": q} | {name: value for name, value in asdict(filters).items() if name not in ("text", "reward")}
    asked["reward"] = reward
    return page(
        request,
        "search.html",
        run=run,
        found=found,
        asked=asked,
        shown=[
            (hit, _around(hit.diagnosis, q) or _around(hit.text, q), _around(hit.query_text, q)) for hit in found.hits
        ],
        choices={
            "kind": _KINDS,
            "verdict": VerificationOutcome,
            "error_kind": _ERROR_KINDS,
            "parse_outcome": ParseOutcome,
        },
        rewards=_REWARDS,
        is_id=re.fullmatch(r"[0-9a-fA-F-]{6,36}", q.strip()) is not None,
        go_on=search_url(run, **asked, page=found.position) if found.position else None,
        go_on_long=search_url(run, **asked, page=found.position, long="true") if found.position else None,
        full=len(found.hits) == _N_HITS,
        begun=bool(page_at),
        first=search_url(run, **asked),
    )


def _one_of(name: str, value: str, known: tuple[str, ...] | None) -> str | None:
    """A filter's value; None when it is empty. `known`: its possible values; None: a whole number.

    Raises:
        UserError: it is another.
    """
    if not value:
        return None
    if known is None and re.fullmatch(r"\d{1,9}", value) is None:
        raise UserError(f"{name}={value!a}: give a whole number")
    if known is not None and value not in known:
        raise UserError(f"{name}={value!a}: one of {', '.join(known)}")
    return value


def _around(text: str | None, looked_for: str) -> tuple[str, str, str] | None:
    """A text near what was looked for: before, what was found, after. None: it is not in there."""
    if text is None:
        return None
    wanted = looked_for.strip()
    match = re.search(re.escape(wanted), text, re.IGNORECASE) if wanted else None
    if match is None:
        return None if wanted else ("", "", text[: 2 * _AROUND] + ("…" if len(text) > 2 * _AROUND else ""))
    begin, end = max(0, match.start() - _AROUND), match.end() + _AROUND
    before = ("…" if begin else "") + text[begin : match.start()]
    return before, match[0], text[match.end() : end] + ("…" if end < len(text) else "")
