"""Which run or configuration a command is about; apart, so that `tapo --help` imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

import tapo_core
from tapo_core.cli.called import program
from tapo_core.errors import UserError

#: What `tapo demo` trains, and what the form in the Prefect UI proposes.
DEMO_CONFIG = Path(tapo_core.__file__).resolve().parents[1] / "configs" / "nano_tapo.toml"

RunFolder = Annotated[
    Path | None, typer.Option("--run", help="Folder of the run; the newest run under runs/ when left out")
]


def run_folder(run: Path | None) -> Path:
    """The folder that was named, or the run under runs/ that was written to last.

    Raises:
        UserError: none was named and there is none.
    """
    if run is not None:
        return run
    stores = sorted(Path("runs").glob("*/store"), key=lambda store: store.stat().st_mtime)
    if not stores:
        raise UserError(f"no run under runs/: give its folder with --run, or make one with `{program()} demo`")
    return stores[-1].parent
