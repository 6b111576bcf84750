"""``tapo train``, ``eval``, ``zpd`` and ``cold-start``: the flows, with progress on the terminal."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

from rich.console import Console

from flows.temporary_server import prefect_server
from tapo_core.assets import resolve_assets
from tapo_core.cli.called import command_line
from tapo_core.cli.formats import TableFormat
from tapo_core.cli.reporter import RichReporter
from tapo_core.cli.show import print_table
from tapo_core.config import TapoConfig
from tapo_core.config_operations import Stage
from tapo_core.errors import UserError
from tapo_core.progress import reporting
from tapo_core.resume import is_revision, resumable
from tapo_core.revisions import Revision, check_same_settings, stored_history
from tapo_core.rewind import rewind_run
from tapo_core.session import Flow, Session
from tapo_core.stages.changes import FIRST_STAGE, revise
from tapo_core.stages.start import check_inputs
from tapo_core.stages.zpd_filter import filtered_set
from tapo_core.store import query, verified_commits

EVALUATIONS = """
SELECT dataset, metric, value, low, high, n_queries, n_samples FROM newest_evaluation WHERE iteration = {}
ORDER BY dataset, metric
"""

HELD_OUT = """
SELECT iteration AS policy_version, dataset, metric, value, low, high FROM newest_evaluation WHERE metric = 'pass@1'
ORDER BY dataset, 1
"""


def train_with_progress(config: TapoConfig, again: str) -> None:
    """Run the train flow; `again` is the command that goes on with an interrupted run."""
    with _watched(config, "train", again, config.run.iterations) as console:
        from flows.train import train

        train(config)
    console.print(f"{config.run_folder}: {config.run.iterations} iterations", highlight=False, markup=False)


def filter_with_progress(config: TapoConfig, again: str) -> None:
    """Run the filter of the training set, and say what was kept and where it is."""
    with _watched(config, "zpd_filter", again) as console:
        from flows.zpd_filter import filter_training_set

        found = filter_training_set(config)
    for row in found["histogram"]:
        console.print(
            f"accuracy {row['accuracy']:6.1%}  {row['n_queries']:6d} queries  {row['n_kept']:6d} kept", highlight=False
        )
    told = f"{found['n_kept']} of {found['n_queries']} queries kept: data.train = {filtered_set(config.run_folder)}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


def cold_start_with_progress(config: TapoConfig, again: str) -> None:
    """Run the cold start, and say what it learnt from, how it did before and after, and where the checkpoint is."""
    with _watched(config, "cold_start", again) as console:
        from flows.cold_start import cold_start

        made = cold_start(config)
    print_table(query(config.run_folder, HELD_OUT), TableFormat.TABLE)
    for told in (
        f"{made['n_sft']} SFT and {made['n_ift']} IFT examples: {made['examples']}",
        f"model.path = {made['checkpoint']}",
    ):
        console.print(told, highlight=False, markup=False, soft_wrap=True)


def resume_with_progress(
    run_folder: Path, iterations: int | None, overrides: Sequence[str] = (), reason: str | None = None
) -> None:
    """Go on with a run, whatever flow it is of, with the configuration in its store and overrides. If these shape trajectories,
    they become a revision first, which `reason` is stored with.
    """
    config, flow = resumable(run_folder, iterations, overrides)
    again = command_line(
        *("resume", str(run_folder)), *(["--iterations", str(iterations)] if iterations else []), overrides=overrides
    )
    if is_revision(config):
        _revise(config, flow, reason)
    match flow:
        case "train":
            train_with_progress(config, again)
        case "zpd_filter":
            filter_with_progress(config, again)
        case "cold_start":
            cold_start_with_progress(config, again)


def _revise(config: TapoConfig, flow: Flow, reason: str | None) -> None:
    """Make a configuration the next revision of its run, after everything that a person can get wrong was looked at."""
    console = Console(stderr=True)
    with (
        RichReporter(console, config.run.iterations) as reporter,
        reporting(reporter),
        closing(Session(config, resolve_assets(config, reporter.prepare), flow)) as session,
    ):
        check_inputs(session, revises=True)
        told = revise(session, reason)
    for line in told:
        console.print(f"{config.run_folder}: {line}", highlight=False, markup=False, soft_wrap=True)


def check_changes(run_folder: Path, stage: str | None, overrides: Sequence[str], reason: str | None) -> None:
    """See that a run can go on with these overrides, from a stage that is done again if one is given. Nothing is changed.

    Raises:
        UserError: see `resumable`; or a revision would begin in the middle of an iteration, or there is none for a reason.
    """
    config, _ = resumable(run_folder, None, overrides)
    revises = is_revision(config)
    if reason is not None and not revises:
        raise UserError("--reason is stored with a revision, and no --set changes a key that shapes trajectories")
    if revises and stage not in (None, FIRST_STAGE):
        raise UserError(
            f"--from {stage}: an iteration runs under one revision from its first stage on; to do it again with --set, use "
            f"--from {FIRST_STAGE}"
        )


def rewind(run_folder: Path, stage: str | None, iteration: int | None) -> None:
    """Take a run back to before a stage (the iteration's first when None) of an iteration (the newest with it when None).

    Raises:
        UserError: see `rewind_run`; or the run's commits are in a lake. Nothing was changed.
    """
    config, _ = resumable(run_folder)
    if config.store.lake is not None:
        raise UserError(
            f"{run_folder}: the lake {config.store.lake} has this run's commits as they are; tapo fork it instead"
        )
    made = [c for c in verified_commits(run_folder) if c.iteration > 0 and c.stage in get_args(Stage)]
    made = [commit for commit in made if stage in (None, commit.stage) and iteration in (None, commit.iteration)]
    newest = max((commit.iteration for commit in made), default=iteration or 1)
    first = next((commit.stage for commit in made if commit.iteration == newest), "sample")
    n_revisions = len(_revisions(run_folder))
    kept_in = rewind_run(run_folder, stage or first, newest)
    told = (
        f"{run_folder}: back to before {stage or first} of iteration {newest}; the run as it was is kept in {kept_in}"
    )
    console = Console(stderr=True)
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    left = _revisions(run_folder)
    if len(left) < n_revisions:
        told = f"{run_folder}: the configuration is revision {left[-1].number} again: later ones were made after that stage"
        console.print(told, highlight=False, markup=False, soft_wrap=True)


def _revisions(run_folder: Path) -> Sequence[Revision]:
    history = stored_history(run_folder)
    return () if history is None else history.revisions


@contextmanager
def _watched(config: TapoConfig, flow: Flow, again: str, iterations: int | None = None) -> Iterator[Console]:
    """Progress on the terminal while a flow runs; `again` is the command that goes on with it after Ctrl-C."""
    console = Console(stderr=True)
    try:
        with RichReporter(console, iterations) as reporter, reporting(reporter):
            check_same_settings(config)
            # Before Prefect starts: what a person can get wrong is told at once, and in one line.
            check_inputs(Session(config, resolve_assets(config, reporter.prepare), flow))
            with prefect_server():
                yield console
    except KeyboardInterrupt:
        console.print(f"\nInterrupted. Nothing is lost; go on with: {again}", highlight=False, markup=False)
        raise


def evaluate_with_progress(config: TapoConfig, iteration: int | None, output: TableFormat) -> None:
    """Run the evaluate flow and print what it found."""
    from flows.evaluate import evaluate_policy

    with RichReporter(Console(stderr=True), config.run.iterations) as reporter, reporting(reporter), prefect_server():
        evaluated = evaluate_policy(config, iteration)["iteration"]
    print_table(query(config.run_folder, EVALUATIONS.format(int(evaluated))), output)
