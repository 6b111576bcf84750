"""The commands of ``tapo``. Exit codes: 0 done, 1 the run stopped, 2 bad input (one line says what), 130 interrupted."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tapo_core.cli import audit, keeping, lake, operations, plan, report, verify, view
from tapo_core.cli.called import command_line
from tapo_core.cli.folders import DEMO_CONFIG, RunFolder, run_folder
from tapo_core.cli.formats import LineageFormat, TableFormat
from tapo_core.errors import TapoError, UserError
from tapo_core.network import keep_loopback_direct
from tapo_core.text import one_line

if TYPE_CHECKING:
    from tapo_core.comparison import PolicyAt
    from tapo_core.config import TapoConfig

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(audit.app, name="audit")
app.add_typer(lake.app, name="lake")
app.command(name="export")(keeping.export)
app.command(name="import")(keeping.import_)
app.command(name="backup")(keeping.backup)
app.command(name="restore")(keeping.restore)
app.command(name="redact")(keeping.redact)
app.command(name="gc")(keeping.gc)
for command in (plan.plan, verify.verify, view.view, report.report, operations.up, operations.status, operations.down):
    app.command()(command)

ConfigFile = Annotated[Path, typer.Argument(help="TOML file, for example configs/nano_tapo.toml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: --set section.key=value (may be repeated)")
]


@app.callback()
def tapo() -> None:
    """Trajectory-augmented policy optimization, with every trajectory in DuckDB."""


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Folder for the runs")] = Path("runs"), overrides: Overrides = None
) -> None:
    """Train the built-in model with TAPO and look at what happened."""
    _prepare_prefect(_read(DEMO_CONFIG, [f"run.output_dir={output_dir}", *(overrides or [])]))
    from tapo_core.cli.demo import run_demo

    run_demo(output_dir, overrides or [])


@app.command()
def train(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Train a run, or go on with one that was interrupted."""
    config = _read(config_file, overrides)
    _prepare_prefect(config)
    from tapo_core.cli.runs import train_with_progress

    train_with_progress(config, command_line("train", str(config_file), overrides=overrides or []))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of the run")],
    iterations: Annotated[
        int | None, typer.Option(min=1, help="So many iterations in all, instead of those of its configuration")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option("--from", help="Do this stage and all after it again; the run as it was is kept beside it"),
    ] = None,
    iteration: Annotated[
        int | None, typer.Option(min=1, help="Of the stage that is done again; the newest one when left out")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a key: --set section.key=value (may be repeated). One that shapes trajectories makes a revision of the "
            "configuration, which applies from the next iteration on",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why; stored with the revision")] = None,
) -> None:
    """Go on with a run where it stopped, with the configuration in its store; no file is needed."""
    _prepare_prefect()
    from tapo_core.cli.runs import check_changes, resume_with_progress, rewind
    from tapo_core.rewind import finish_rewind

    finish_rewind(run)
    check_changes(run, stage, overrides or [], reason)
    if stage is not None or iteration is not None:
        rewind(run, stage, iteration)
    resume_with_progress(run, iterations, overrides or [], reason)


@app.command()
def fork(
    run: Annotated[Path, typer.Argument(help="Folder of the run to fork")],
    name: Annotated[str, typer.Argument(help="Name of the new run, whose folder is beside the other's")],
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Begin with the policy that came out of it, instead of the newest")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Train a new run from a policy version of another, with its configuration, and --set what is to differ."""
    _prepare_prefect()
    from tapo_core.cli.runs import train_with_progress
    from tapo_core.resume import forked

    config = forked(run, name, iteration, overrides or [])
    train_with_progress(config, command_line("resume", str(config.run_folder)))


@app.command()
def zpd(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Filter a training set: keep the queries that are neither too hard nor too easy for the model."""
    config = _read(config_file, overrides)
    _prepare_prefect(config)
    from tapo_core.cli.runs import filter_with_progress

    filter_with_progress(config, command_line("zpd", str(config_file), overrides=overrides or []))


@app.command()
def cold_start(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Fine-tune a model on its own correct rollouts and constructions, before it is trained with TAPO."""
    config = _read(config_file, overrides)
    _prepare_prefect(config)
    from tapo_core.cli.runs import cold_start_with_progress

    cold_start_with_progress(config, command_line("cold-start", str(config_file), overrides=overrides or []))


@app.command(name="eval")
def evaluate(
    config_file: ConfigFile,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Which policy version (0 = the initial model); the newest when left out")
    ] = None,
    overrides: Overrides = None,
    output: Annotated[TableFormat, typer.Option("--format")] = TableFormat.TABLE,
) -> None:
    """Evaluate a policy version of a run on the held-out queries and the benchmarks, and list its metrics."""
    config = _read(config_file, overrides)
    _prepare_prefect(config)
    from tapo_core.cli.runs import evaluate_with_progress

    evaluate_with_progress(config, iteration, output)


@app.command()
def study(
    config_file: Annotated[Path, typer.Argument(help="TOML file, for example configs/studies/paper_tables.toml")],
    quick: Annotated[bool, typer.Option("--quick", help="The small version of it that the file describes")] = False,
    report: Annotated[bool, typer.Option("--report", help="No runs: tables and figures from the record")] = False,
    listing: Annotated[bool, typer.Option("--list", help="No runs: show which there are and how far they are")] = False,
    only: Annotated[str | None, typer.Option(help="Only runs whose names match, such as 'chain-*-s0'")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Only runs that are not in the record yet")] = False,
    output: Annotated[TableFormat, typer.Option("--format", help="Of --list")] = TableFormat.TABLE,
) -> None:
    """Make all runs of a study, or go on with them, and the tables and figures from what they stored."""
    from tapo_core.cli.study import list_runs, report_study, run_study

    if report and (listing or only or missing):
        raise UserError("--report makes the tables of the whole record: leave out --list, --only and --missing")
    if listing and missing:
        raise UserError("--list tells of the runs' folders, not of the record: leave out --missing")
    if listing:
        list_runs(config_file, quick, only, output)
    elif report:
        report_study(config_file, quick)
    else:
        run_study(config_file, quick, only, missing)


@app.command()
def data(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Look at the data sets of a configuration: rows, bad rows, duplicates of benchmarks. Starts and writes nothing."""
    config = _read(config_file, overrides)
    from tapo_core.cli.data import print_data

    print_data(config)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A policy version: folder of the run, colon, iteration: runs/a:10")],
    second: Annotated[str, typer.Argument(help="What it is compared with, for example runs/b:10")],
    dataset: Annotated[str, typer.Option(help="held_out, or a name in evaluation.datasets")] = "held_out",
) -> None:
    """Compare the pass@1 of two evaluated policy versions, problem by problem: difference, interval and p-value."""
    from tapo_core.comparison import CONFIDENCE, compare_policies

    found = compare_policies(_policy_at(first), _policy_at(second), dataset)
    difference = found.difference
    typer.echo(
        f"{first} less {second}: {100 * difference.value:+.1f} points of pass@1, {CONFIDENCE:.0%} interval "
        f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}, p = {found.p_value:.4f} "
        f"({found.n_problems} problems of {dataset}, paired)"
    )


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Folder of a run")],
    second: Annotated[Path, typer.Argument(help="Folder of another run")],
    output: Annotated[TableFormat, typer.Option("--format")] = TableFormat.TABLE,
) -> None:
    """Show what differs between two runs: settings, versions, the initial policy, the queries."""
    from tapo_core.cli.show import print_table
    from tapo_core.comparison import differing_settings

    found = differing_settings(first, second)
    if found.empty:
        typer.echo("no difference in settings, versions, initial policy or queries")
    else:
        print_table(found, output)


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help='For example "SELECT * FROM iteration_summary"')],
    run: RunFolder = None,
    lake_catalog: Annotated[
        str | None, typer.Option("--lake", help="Ask all runs of a lake instead of one run")
    ] = None,
    output: Annotated[TableFormat, typer.Option("--format")] = TableFormat.TABLE,
    limit_seconds: Annotated[float, typer.Option(min=0.1, help="Stop the query after this time")] = 30.0,
) -> None:
    """Ask a run's store, or a lake. Read-only, at any time, also while the run trains."""
    from tapo_core.cli.show import print_table
    from tapo_core.store import query
    from tapo_core.store.lake_reader import query_lake

    if lake_catalog is None:
        found = query(run_folder(run), statement, limit_seconds=limit_seconds)
    elif run is None:
        found = query_lake(lake_catalog, statement, limit_seconds=limit_seconds)
    else:
        raise UserError("--run and --lake: a question goes to one run or to a lake, not both")
    print_table(found, output)


@app.command()
def shell(run: RunFolder = None) -> None:
    """Ask a run's store at a prompt: SQL up to a semicolon, on what is committed by then. Read-only."""
    from tapo_core.cli.shell import run_shell

    run_shell(run_folder(run))


@app.command()
def lineage(
    subject_id: Annotated[str, typer.Argument(help="An id of any row, or its first characters (6 at least)")],
    run: RunFolder = None,
    output: Annotated[LineageFormat, typer.Option("--format")] = LineageFormat.TREE,
) -> None:
    """Show where a row came from and what became of it: query, policy, rollouts, verdicts, correction, update."""
    from tapo_core.store import lineage as trace
    from tapo_core.store import render_tree, to_json, to_mermaid

    render = {LineageFormat.TREE: render_tree, LineageFormat.JSON: to_json, LineageFormat.MERMAID: to_mermaid}
    typer.echo(render[output](trace(run_folder(run), subject_id)))


def _read(config_file: Path, overrides: list[str] | None) -> "TapoConfig":
    """The configuration, before anything heavy is imported: a typo is told at once."""
    from tapo_core.config_file import load_config

    return load_config(config_file, overrides or [])


def _policy_at(text: str) -> "PolicyAt":
    """``runs/a:10`` as a policy version.

    Raises:
        UserError: it is not written like that.
    """
    from tapo_core.comparison import PolicyAt

    folder, colon, iteration = text.rpartition(":")
    if not colon or not folder or not iteration.isdecimal():
        raise UserError(f"{text}: write a policy version as the run's folder, a colon and the iteration: runs/a:10")
    return PolicyAt(Path(folder), int(iteration))


def _prepare_prefect(config: "TapoConfig | None" = None) -> None:
    """See that Prefect and a run of this configuration can write where they need to, and keep Prefect quiet: its own log lines
    would tear the progress display, and tell of every error a second time.

    Must run before prefect is imported.

    Raises:
        UserError: a folder is missing or cannot be written to.
    """
    from tapo_core.cli.places import check_places_of_run

    check_places_of_run(config)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # The temporary server of a run without PREFECT_API_URL: a busy machine needs longer than the default 20 s.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    from tapo_core.engines.environment import prepare_environment

    prepare_environment(vllm=False)  # whoever needs vLLM asks for it


def main() -> None:
    """Entry point: every error that TAPO raises on purpose is one clear line."""
    keep_loopback_direct()
    try:
        app()
    except UserError as error:
        _fail(error, 2)
    except TapoError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: TapoError, code: int) -> None:
    print(f"tapo: {one_line(error)}", file=sys.stderr)
    sys.exit(code)
