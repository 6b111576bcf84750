"""``tapo study``: the runs of a study file, and the tables and figures that are made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from tapo_core.cli.called import command_line
from tapo_core.cli.formats import TableFormat
from tapo_core.errors import TapoError
from tapo_core.files import make_folder
from tapo_core.locks import take_lock
from tapo_core.study.config import StudyConfig, load_study
from tapo_core.study.plan import PlannedRun, matching, plan_runs
from tapo_core.study.record import Record, merged, read_record, write_record
from tapo_core.study.report import write_report
from tapo_core.study.runner import Failure, State, iterations_of, make_runs, minutes_of, refuse_other_settings, state_of


class StudyError(TapoError):
    """Some runs failed. The others were made and are in the report."""


def planned(file: Path, quick: bool) -> tuple[StudyConfig, list[PlannedRun]]:
    """A study and its runs, all checked."""
    study = load_study(file)
    over = study.quick.set if quick else None
    study = study.made_quick() if quick else study
    return study, plan_runs(study, str(file), over)


def run_study(file: Path, quick: bool, only: str | None, missing: bool) -> None:
    """Make the runs that are not done, then the record and the report.

    `missing`: leave out those that are in the record already.

    Raises:
        StudyError: some runs failed.
    """
    study, runs = planned(file, quick)
    chosen = matching(runs, only)
    if missing:
        known = recorded(chosen, read_record(study.record))
        chosen = [run for run in chosen if run.name not in known]
        typer.echo(f"{len(known)} runs are in the record, {len(chosen)} are not")
    make_folder(study.folder)
    unlock = take_lock(study.folder / "study.lock", f"{study.folder}: another process (PID {{}}) makes this study")
    try:
        refuse_other_settings(runs)
        failures = make_runs(chosen, study.folder, study.study.parallel, typer.echo)
        _keep(study, runs)
        typer.echo(f"record: {study.record}, report: {write_report(study, runs)}")
    except KeyboardInterrupt:
        _keep(study, runs)
        again = ["study", str(file), *(["--quick"] if quick else []), *(["--only", only] if only else [])]
        again += ["--missing"] if missing else []
        typer.echo(f"Interrupted. Nothing is lost; go on with: {command_line(*again)}", err=True)
        raise
    finally:
        unlock()
    _tell_failures(failures)


def recorded(runs: Sequence[PlannedRun], record: Record) -> set[str]:
    """The names of the runs that a record has, with the settings and at least the length that they are to have."""
    there = {(row["run"], row["settings_digest"]): row["iterations"] for row in record.runs}
    return {run.name for run in runs if there.get((run.name, run.settings_digest), 0) >= run.config.run.iterations}


def report_study(file: Path, quick: bool) -> None:
    """Tables and figures from the record, no runs."""
    study, runs = planned(file, quick)
    typer.echo(str(write_report(study, runs)))


def list_runs(file: Path, quick: bool, only: str | None, output: TableFormat) -> None:
    """What would be run: state, iterations that are done, minutes that it took, or is expected to take by those done."""
    import pandas

    from tapo_core.cli.show import print_table

    study, runs = planned(file, quick)
    rows: list[dict[str, Any]] = []
    for run in matching(runs, only):
        state = state_of(run)
        minutes = minutes_of(run.folder) if state is State.DONE else None
        row = (run.name, state.value, iterations_of(run), run.config.run.iterations, minutes)
        rows.append(dict(zip(("run", "state", "iterations", "of", "minutes"), row, strict=True)))
    print_table(pandas.DataFrame(rows), output)
    typer.echo(_expected(rows, study.study.parallel))


def _expected(rows: Sequence[dict[str, Any]], parallel: int) -> str:
    """How long the rest will take, if its iterations take as long as those of the runs that are done."""
    done = [row for row in rows if row["minutes"] is not None]
    rest = [row for row in rows if row["state"] != State.DONE.value]
    told = f"{len(done)} of {len(rows)} runs are done"
    if not rest or not done:
        return told
    each = sum(row["minutes"] for row in done) / sum(row["of"] for row in done)
    minutes = each * sum(row["of"] - row["iterations"] for row in rest) / parallel
    return (
        f"{told}; at {60 * each:.1f} s an iteration the rest takes about {minutes:.0f} minutes, {parallel} at one time"
    )


def _keep(study: StudyConfig, runs: Sequence[PlannedRun]) -> None:
    """Bring the record up to date with all runs that are done."""
    from tapo_core.study.measure import (
        measure,  # brings what stages need, torch among it: nothing for --report and --list
    )

    done = [measure(run) for run in runs if state_of(run) is State.DONE]
    record, notes = merged(read_record(study.record), done)
    for note in notes:
        typer.echo(note)
    write_record(study.record, record)


def _tell_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        typer.echo(f"\n{failure.run.name}: exit code {failure.exit_code}; the end of {failure.log}:", err=True)
        typer.echo(failure.last_lines, err=True)
    if failures:
        raise StudyError(f"{len(failures)} runs failed; the same command tries them again")
