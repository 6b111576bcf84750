"""The address of every page: templates and pages make links by these functions only."""

from urllib.parse import quote, urlencode

HOST, PORT = "127.0.0.1", 8765  #: where `tapo view` listens unless told otherwise
ADDRESS = f"http://{HOST}:{PORT}"


def _path(*parts: str | int) -> str:
    return "".join(f"/{quote(str(part), safe='')}" for part in parts)


def _asking(path: str, parameters: dict[str, str | int | float | None]) -> str:
    """A path with those parameters that have a value."""
    given = {name: value for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given)}" if given else path


def runs_url() -> str:
    """All runs."""
    return "/"


def static_url(name: str) -> str:
    """A file of the page's own look and behaviour."""
    return _path("static", name)


def run_url(run: str) -> str:
    """One run: its curves and iterations."""
    return _path("run", run)


def config_url(run: str) -> str:
    """The configuration of a run."""
    return _path("run", run, "config")


def iteration_url(run: str, iteration: int) -> str:
    """One iteration of a run."""
    return _path("run", run, "iteration", iteration)


def group_url(run: str, iteration: int, query_id: str) -> str:
    """The group of rollouts that a query had in an iteration."""
    return _path("run", run, "iteration", iteration, "query", query_id)


def trajectory_url(run: str, trajectory_id: str) -> str:
    """A rollout, or a construction."""
    return _path("run", run, "trajectory", trajectory_id)


def lineage_url(run: str, subject_id: str) -> str:
    """Where anything with an id came from, and what came of it."""
    return _path("run", run, "lineage", subject_id)


def search_url(run: str, **filters: str | int | float | None) -> str:
    """The search, with what was looked for."""
    return _asking(_path("run", run, "search"), filters)


def sql_url(run: str, q: str | None = None) -> str:
    """The SQL box, with a statement."""
    return _asking(_path("run", run, "sql"), {"q": q})


def sql_csv_url(run: str, q: str) -> str:
    """The result of a statement as CSV."""
    return _asking(_path("run", run, "sql.csv"), {"q": q})


def compare_url(a: str | None = None, b: str | None = None, dataset: str | None = None) -> str:
    """Two policy versions, each as run, colon, iteration."""
    return _asking("/compare", {"a": a, "b": b, "dataset": dataset})
