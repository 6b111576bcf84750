"""Templates to pages. Everything that a template prints is escaped, and a name that a template lacks is an error."""

from functools import cache
from pathlib import Path

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tapo_core.statistics import Estimate
from tapo_core.text import shortened
from tapo_core.viewer import urls

HERE = Path(__file__).parent
STATIC = HERE / "static"


def _share(value: float | None) -> str:
    """A share as a percentage; a dash when there is none."""
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    """A number with four digits, an integer with all; a dash when there is none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _interval(estimate: Estimate | None) -> str:
    """A share and its interval."""
    return "–" if estimate is None else f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _moment(time: str) -> str:
    """A time of the store (UTC) to the second."""
    return time[:19].replace("T", " ")


def _short(row_id: str) -> str:
    """The beginning of an id, enough to tell it from its neighbours."""
    return row_id[:8]


def _kind(name: str) -> str:
    """A table's or relation's name as words."""
    return name.replace("_", " ")


@cache
def environment() -> Environment:
    """Where templates come from; functions of `urls` are known by name in all of them."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update({name: getattr(urls, name) for name in dir(urls) if name.endswith("_url")})
    made.filters.update(share=_share, number=_number, interval=_interval, moment=_moment, short=_short)
    made.filters.update(kind=_kind, shortened=shortened)
    return made


def page(
    request: Request, template: str, *, status: int = 200, run: str | None = None, **context: object
) -> HTMLResponse:
    """An answer with a template filled in. `run`: whose pages the navigation offers."""
    text = environment().get_template(template).render(run=run, path=request.url.path, **context)
    return HTMLResponse(text, status_code=status)
