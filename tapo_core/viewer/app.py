"""The viewer as a web application."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from tapo_core.errors import TapoError, UserError
from tapo_core.viewer import (
    lineage,
    pages_compare,
    pages_iteration,
    pages_run,
    pages_runs,
    pages_search,
    pages_sql,
    trajectory,
)
from tapo_core.viewer.render import STATIC, page
from tapo_core.viewer.runs import NotThereError, Runs
from tapo_core.viewer.security import HEADERS, Guard


def create_app(folders: Sequence[Path]) -> FastAPI:
    """The viewer of the runs in some folders (see `Runs`)."""
    app = FastAPI(title="TAPO", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.runs = Runs(folders)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    pages = (pages_runs, pages_run, pages_iteration, trajectory, lineage, pages_compare, pages_search, pages_sql)
    for module in pages:
        app.include_router(module.router)
    app.add_exception_handler(TapoError, _told)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _misspelt)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard)
    return app


def _told(request: Request, error: Exception) -> HTMLResponse:
    """An error that TAPO raised on purpose, as a page."""
    status = 404 if isinstance(error, NotThereError) else 400 if isinstance(error, UserError) else 500
    return page(request, "error.html", status=status, message=str(error))


def _refused(request: Request, error: Exception) -> HTMLResponse:
    """An address that no page has."""
    assert isinstance(error, HTTPException)
    told = "there is no such page" if error.status_code == 404 else str(error.detail)
    return page(request, "error.html", status=error.status_code, message=told)


def _misspelt(request: Request, error: Exception) -> HTMLResponse:
    """An address with a value that the page cannot have."""
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{one['loc'][-1]}={one['input']!a}: {one['msg']}" for one in error.errors())
    return page(request, "error.html", status=400, message=f"the address is wrong: {told}")


def _broken(request: Request, error: Exception) -> HTMLResponse:
    """A fault of the viewer itself, which the terminal tells in full. It is answered outside of `Guard`."""
    told = f"the viewer failed at this page ({type(error).__name__}); the terminal of `tapo view` says where"
    answer = page(request, "error.html", status=500, message=told)
    answer.headers.update(HEADERS)
    return answer
