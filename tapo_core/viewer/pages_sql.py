"""SQL on one run, read-only: the statement is in the address, so that a question can be sent."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from tapo_core.errors import UserError
from tapo_core.store import open_reader
from tapo_core.store.reader import ask, readable_files
from tapo_core.text import cell_text
from tapo_core.viewer.render import page
from tapo_core.viewer.runs import NotThereError, Runs, RunsHere

if TYPE_CHECKING:  # pandas takes most of a second to import
    import pandas

router = APIRouter()

LIMIT_SECONDS = 10.0
_MAX_SHOWN, _MAX_CSV = 1_000, 100_000  #: rows
_AT_ONCE = threading.BoundedSemaphore(2)  #: questions, each of which may take gigabytes
_EXAMPLES = (
    "SELECT iteration, accuracy, n_eligible, parse_rate FROM iteration_summary ORDER BY iteration",
    "SELECT reason, selected, sum(n) AS n FROM selection_summary WHERE subject_kind = 'query' GROUP BY ALL ORDER BY n DESC",
    "SELECT error_kind, count(*) AS n FROM wrong_rollout GROUP BY error_kind ORDER BY n DESC",
    "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'why_in_batch'",
    "SELECT view_name FROM duckdb_views() WHERE NOT internal AND NOT temporary ORDER BY view_name",
)


@router.get("/run/{run}/sql")
def sql(request: Request, runs: RunsHere, run: str, q: str = "") -> HTMLResponse:
    """A statement and its first rows."""
    runs.folder(run)
    names: list[str] = []
    rows: list[list[str]] = []
    problem = None
    if q.strip():
        try:
            frame = _answer(runs, run, q, _MAX_SHOWN)
        except UserError as error:
            problem = str(error)
        else:
            names = [str(name) for name in frame.columns]
            rows = [[cell_text(value) for value in row] for row in frame.itertuples(index=False)]
    return page(
        request,
        "sql.html",
        status=400 if problem else 200,
        run=run,
        q=q,
        names=names,
        rows=rows,
        problem=problem,
        examples=_EXAMPLES,
        limit_seconds=LIMIT_SECONDS,
        max_shown=_MAX_SHOWN,
        max_csv=_MAX_CSV,
    )


@router.get("/run/{run}/sql.csv")
def sql_csv(runs: RunsHere, run: str, q: str = "") -> Response:
    """The result of a statement as CSV, to keep."""
    if not q.strip():
        raise NotThereError("no statement: write it after sql.csv?q=")
    text = _answer(runs, run, q, _MAX_CSV).to_csv(index=False)
    return Response(text, media_type="text/csv", headers={"Content-Disposition": 'attachment; filename="result.csv"'})


def _answer(runs: Runs, run: str, statement: str, max_rows: int) -> "pandas.DataFrame":
    """The result of a statement, on a snapshot of its own: a long question holds up no page."""
    folder = runs.folder(run)
    with _one_of_few(), open_reader(folder, commits=runs.commits(run)) as connection, readable_files(folder):
        return ask(connection, statement, limit_seconds=LIMIT_SECONDS, max_rows=max_rows)


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _AT_ONCE.acquire(timeout=LIMIT_SECONDS):
        raise UserError("other questions are still being answered: ask again in a moment")
    try:
        yield
    finally:
        _AT_ONCE.release()
