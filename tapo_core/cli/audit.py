"""``tapo audit verify | replay | repair``: is the store what was written, does it come out again, and a database made anew."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from tapo_core.cli.folders import RunFolder, run_folder

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check what a run stored, and repair its database.")


@app.command()
def verify(
    run: RunFolder = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a finding a line")] = False
) -> None:
    """Compute every digest again, and hold ledger, published files, database and checkpoints against each other.

    Exit code 0 if all is as it was written, 1 if not.
    """
    from tapo_core.cli.show import printable
    from tapo_core.store.audit import verify as audit

    folder = run_folder(run)
    report = audit(folder)
    for finding in report.findings:
        typer.echo(json.dumps(asdict(finding)) if as_json else printable(finding.line))
    n_gone = len(report.findings) - len(report.faults)
    typer.echo(
        f"{folder}: {report.n_commits} commits, {report.n_files} published files, {report.n_rows} rows, "
        f"{report.n_redacted} of them redacted; "
        f"{len(report.faults)} faults, {n_gone} folders gone; last chain digest {report.chain_digest}",
        err=as_json,
    )
    raise typer.Exit(1 if report.faults else 0)


@app.command()
def repair(run: RunFolder = None) -> None:
    """Make a damaged database anew from the published files, if these verify. The damaged one is kept beside it."""
    from tapo_core.cli.show import printable
    from tapo_core.store.repair import repair as mend

    folder = run_folder(run)
    done = mend(folder)
    for finding in done.faults:
        typer.echo(printable(finding.line))
    if not done.faults:
        typer.echo(f"{folder}: the database agrees with ledger and published files; nothing was done")
    else:
        kept = f"; the damaged one is {done.kept}" if done.kept else ""
        typer.echo(f"{folder}: the database was made anew from the published files{kept}")


@app.command()
def replay(
    run: RunFolder = None,
    iteration: Annotated[int | None, typer.Option(min=0, help="Only this iteration; all when left out")] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Also sample so many rollouts again, from the stored policy, prompt and seed")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a difference a line")] = False,
) -> None:
    """Compute every derived value again from what is stored: prompts, verdicts, error locations, decisions, advantages, weights.

    Exit code 0 if all comes out the same, 1 if not.
    """
    from tapo_core.cli.show import printable
    from tapo_core.replay import replay as again
    from tapo_core.replay import resample

    folder = run_folder(run)
    found = again(folder, iteration)
    differences = list(found.differences)
    typer.echo(f"{folder}: replayed " + ", ".join(f"{n} {table}" for table, n in found.rows.items() if n), err=as_json)
    given = [f"stage {stage}" for stage in found.not_replayed] + ["sampled tokens", "optimizer steps"]
    typer.echo(f"taken as given: {', '.join(given)}", err=as_json)
    if found.n_redacted:
        typer.echo(f"left out, because queries were redacted: {found.n_redacted} rows", err=as_json)
    if sample:
        sampled = resample(folder, sample, iteration)
        typer.echo(f"sampled again: {sampled.n} rollouts, {len(sampled.differences)} came out otherwise", err=as_json)
        differences += sampled.differences
    for difference in differences:
        column = f" {difference.column}" if difference.column else ""
        line = (
            f"{difference.table} ({difference.key}){column}: stored {difference.stored}, replayed {difference.replayed}"
        )
        typer.echo(json.dumps(asdict(difference)) if as_json else printable(line))
    typer.echo(f"{len(differences)} differences", err=as_json)
    raise typer.Exit(1 if differences else 0)
