"""``tapo report``: a run as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of the run")],
    output: Annotated[Path | None, typer.Option(help="The file; RUN/report.html when left out")] = None,
    trajectories: Annotated[int, typer.Option(min=0, help="Constructed trajectories in it at the most")] = 12,
) -> None:
    """Write a run's summary, curves, iterations and some trajectories as one HTML file that needs nothing else."""
    from tapo_core.viewer.report import write_report

    written = write_report(run, output, trajectories)
    size = written.file.stat().st_size / 1e6
    typer.echo(
        f"{written.file}: {size:.1f} MB, {written.n_trajectories} of {written.n_there} constructions. Open it in a browser."
    )
