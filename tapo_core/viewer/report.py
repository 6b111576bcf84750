"""A run as one HTML file that asks for nothing else: the viewer's own pages, with a bounded choice of trajectories."""

import base64
import hashlib
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from markupsafe import Markup

from tapo_core.errors import UserError
from tapo_core.files import publish_text
from tapo_core.keeping import REPORT
from tapo_core.records import RolloutKind
from tapo_core.store.iteration_counts import IterationCounts, iteration_counts
from tapo_core.store.view_pages import (
    ITERATION_TABLES,
    RUN_TABLES,
    ConstructionRow,
    GroupMember,
    QueryFacts,
    constructions,
    group_members,
    query_facts,
    query_groups,
    run_facts,
)
from tapo_core.store.view_trajectory import TRAJECTORY_TABLES, sample_constructions
from tapo_core.viewer.pages_run import config_text, newest_evaluation, read_evaluations, read_metrics, run_charts
from tapo_core.viewer.render import STATIC, environment
from tapo_core.viewer.runs import Runs
from tapo_core.viewer.trajectory import TOOLS, TrajectoryView, load_trajectory, view_trajectory

N_TRAJECTORIES = 12  #: unless told otherwise
_N_GROUPS = 4  #: of a run that constructs nothing
_N_ITERATIONS = 1000
_STYLES, _SCRIPTS = ("viewer.css", "trajectory.css"), ("theme.js",)


@dataclass(frozen=True, slots=True)
class Group:
    """A query's rollouts in one iteration."""

    iteration: int
    query: QueryFacts
    members: list[GroupMember]
    constructions: list[ConstructionRow]


@dataclass(frozen=True, slots=True)
class Written:
    """What a report has of its run."""

    file: Path
    n_trajectories: int
    n_there: int  #: constructions in the run


def write_report(run_folder: Path, file: Path | None = None, n_trajectories: int = N_TRAJECTORIES) -> Written:
    """Write the report on a run, as it is now, to a file: `keeping.REPORT` in its folder if none is named. An earlier one goes.

    Raises:
        UserError: no run in the folder, or the file cannot be written.
        IntegrityError: the store cannot be read.
    """
    if not (run_folder / "store").is_dir():
        raise UserError(f"no run in {run_folder}: give the folder of a run")
    file = run_folder / REPORT if file is None else file
    if file.is_dir():
        raise UserError(f"{file} is a folder: name a file, for example {file / REPORT}")
    runs = Runs([run_folder])
    (run,) = runs.found()
    counts = iteration_counts(runs.commits(run))
    chosen = _choose(runs, run, counts, n_trajectories)
    views = [view for trajectory_id, _, _ in chosen if (view := _view(runs, run, trajectory_id)) is not None]
    places = dict.fromkeys((iteration, query_id) for _, iteration, query_id in chosen) or _some_groups(
        runs, run, counts
    )
    groups = [_group(runs, run, *place) for place in places]
    n_there = sum(one.n_constructions or 0 for one in counts)
    publish_text(file, [_render(runs, run, run_folder, counts, views, groups, n_there)])
    return Written(file, len(views), n_there)


def _choose(runs: Runs, run: str, counts: list[IterationCounts], count: int) -> list[tuple[str, int, str]]:
    """Constructions with iteration and query, of the newest iterations that have any."""
    chosen: list[tuple[str, int, str]] = []
    for one in reversed(counts):
        if len(chosen) < count and one.n_constructions:
            with runs.open(run, {one.iteration}, TRAJECTORY_TABLES) as connection:
                found = sample_constructions(connection, one.iteration, count - len(chosen))
            chosen += [(correction_id, one.iteration, query_id) for correction_id, query_id in found]
    return chosen


def _view(runs: Runs, run: str, trajectory_id: str) -> TrajectoryView | None:
    found = load_trajectory(runs, run, trajectory_id)
    return None if found is None else view_trajectory(found, runs, run)


def _some_groups(runs: Runs, run: str, counts: list[IterationCounts]) -> dict[tuple[int, str], None]:
    """Some groups of the newest iteration that sampled any."""
    sampled = [one.iteration for one in counts if one.iteration and one.n_rollouts]
    if not sampled:
        return {}
    with runs.open(run, {sampled[-1]}, ITERATION_TABLES) as connection:
        groups = query_groups(connection, sampled[-1], RolloutKind.TRAINING, None, _N_GROUPS)
    return {(sampled[-1], group.query_id): None for group in groups}


def _group(runs: Runs, run: str, iteration: int, query_id: str) -> Group:
    with runs.open(run, {iteration}, ITERATION_TABLES) as connection:
        query = query_facts(connection, query_id)
        assert query is not None, query_id
        members = group_members(connection, iteration, query_id)
        made = constructions(connection, iteration, query_id=query_id, limit=len(members))
    return Group(iteration, query, members, made)


def _render(
    runs: Runs,
    run: str,
    run_folder: Path,
    counts: list[IterationCounts],
    views: list[TrajectoryView],
    groups: list[Group],
    n_there: int,
) -> str:
    facts = runs.remembered(run, RUN_TABLES, run_facts)
    evaluated = read_evaluations(runs, run)
    styles, scripts = [_own(name) for name in _STYLES], [_own(name) for name in _SCRIPTS]
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            facts=facts,
            config_text=None if facts is None else config_text(facts),
            counts=counts,
            charts=run_charts(counts, evaluated, read_metrics(runs, run)),
            newest=newest_evaluation(evaluated),
            shown=counts[::-1][:_N_ITERATIONS],
            views=views,
            groups=groups,
            n_there=n_there,
            view_command=shlex.join(["tapo", "view", str(run_folder)]),
            styles=styles,
            scripts=scripts,
            policy=_policy(styles, scripts),
            level=3,  # of headings within a trajectory or a group
            **_anchors(views, groups),
            **TOOLS,
        )
    )


def _own(name: str) -> Markup:
    """A file of this package as it is. (Nothing of a run is ever marked as safe.)"""
    return Markup((STATIC / name).read_text(encoding="utf-8"))  # noqa: S704


def _policy(styles: list[Markup], scripts: list[Markup]) -> str:
    """A Content-Security-Policy that lets just these styles and scripts work, and loads nothing."""

    def digests(texts: list[Markup]) -> str:
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts
        )

    return f"default-src 'none'; style-src {digests(styles)}; script-src {digests(scripts)}; base-uri 'none'; form-action 'none'"


def _anchors(views: list[TrajectoryView], groups: list[Group]) -> dict[str, Callable[..., str]]:
    """What the functions of `urls` are within the file: places in it. What it does not have leads to where that is said."""
    there = set(chain((view.found.id for view in views), (f"{g.iteration}-{g.query.query_id}" for g in groups)))

    def place(prefix: str, name: str) -> str:
        return f"#{prefix}-{name}" if name in there else "#more"

    return {
        "run_url": lambda _run: "#main",
        "config_url": lambda _run: "#configuration",
        "iteration_url": lambda _run, _iteration: "#iterations",
        "group_url": lambda _run, iteration, query_id: place("group", f"{iteration}-{query_id}"),
        "trajectory_url": lambda _run, trajectory_id: place("trajectory", trajectory_id),
        "lineage_url": lambda _run, _id: "#more",
    }
