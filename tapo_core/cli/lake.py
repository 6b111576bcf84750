"""``tapo lake add``: a run's commits into a lake, where ``tapo sql --lake`` asks all runs at once."""

from typing import Annotated

import typer

from tapo_core.cli.folders import RunFolder, run_folder

Lake = Annotated[
    str, typer.Option("--lake", help='Catalog: "postgres:dbname=tapo host=127.0.0.1", or the path of a DuckDB file')
]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Many runs in one place, for SQL over all of them.")


@app.callback()
def lake() -> None:
    """Many runs in one place, for SQL over all of them."""


@app.command()
def add(lake: Lake, run: RunFolder = None) -> None:
    """Add all commits of a run that the lake lacks. Files stay where they are; the lake is made if there is none."""
    from tapo_core.store.lake import add_run

    folder = run_folder(run)
    typer.echo(f"{folder}: {add_run(lake, folder)} commits added")
