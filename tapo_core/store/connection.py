"""Opening the DuckDB file of a run: where it is, who holds it, and what its failures mean.

DuckDB lets one process write or many processes read, never both. Writers and readers are short-lived here, so whoever
comes second waits a little.
"""

import os
import re
import time
from pathlib import Path

import duckdb

from tapo_core.errors import IntegrityError, StoreLockedError, UserError
from tapo_core.text import one_line

#: DuckDB settings by name.
Config = dict[str, str | bool | int | float | list[str]]

#: Seconds to wait for another process before giving up.
LOCK_SECONDS = 30.0

#: Python variables must not become tables by their name, and no extension may come from the network.
#: One thread: a stage is small, and its checkpoint is measurably slower on several. Blocks of 64 KiB (of a new database;
#: 256 KiB is the default): a stage's commit writes a few blocks for each column, and takes a third less time.
#: Storage of DuckDB 1.5 (of a new database; the default can be read by 1.0): a checkpoint leaves alone what did not change, so
#: that a commit into a large database costs what one into a small database costs.
WRITER_CONFIG: Config = {
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "threads": "1",
    "default_block_size": "65536",
    "storage_compatibility_version": "v1.5.0",
}


def database_path(run_folder: Path) -> Path:
    """Where a run's database is."""
    return run_folder / "store" / "trajectories.duckdb"


def ledger_path(run_folder: Path) -> Path:
    """Where a run's ledger is."""
    return run_folder / "store" / "ledger.jsonl"


def published_folder(run_folder: Path) -> Path:
    """Where a run's published Parquet files are."""
    return run_folder / "store" / "published"


def no_run(run_folder: Path) -> UserError:
    """The error about a folder without a store."""
    return UserError(f"no run in {run_folder}: there is no {database_path(run_folder)}. Give the folder of a run.")


def what_to_do(database: Path) -> str:
    """The last sentence of every error about a damaged store."""
    run = f"--run {database.parent.parent}"
    return (
        f"Nothing was changed. `tapo audit verify {run}` names the damage; `tapo audit repair {run}` makes the database "
        "anew if the published files are whole."
    )


def _holder(message: str) -> str | None:
    """Who holds the file, if that is what DuckDB complains about."""
    if "different configuration" in message or "Unique file handle conflict" in message:
        # The same file is open in this very process: for reading where we want to write or the other way round, attached to
        # another database, or not wholly closed yet.
        return f"this process (PID {os.getpid()})"
    if "Could not set lock" not in message:
        return None
    found = re.search(r"\(PID (\d+)\)", message)
    return f"PID {found[1]}" if found else "another process"


def connect(path: Path, *, read_only: bool, config: Config, lock_seconds: float) -> duckdb.DuckDBPyConnection:
    """Open a database file, waiting while another process holds it.

    Raises:
        StoreLockedError: when it is still held after `lock_seconds`; names the holder's PID.
        IntegrityError: when the file is no database that this DuckDB can open.
    """
    deadline = time.monotonic() + lock_seconds
    delay = 0.005
    while True:
        try:
            return duckdb.connect(path, read_only=read_only, config=config)
        except duckdb.Error as error:
            holder = _holder(str(error))
            if holder is None:
                raise IntegrityError(f"{path} cannot be opened: {one_line(error)}. {what_to_do(path)}") from error
            if time.monotonic() + delay > deadline:
                raise StoreLockedError(
                    f"{path} is held by {holder} and was not released within {lock_seconds:g} s. "
                    "Close what holds it (a notebook, a viewer, another run), then run the stage again."
                ) from error
        time.sleep(delay)
        delay = min(2 * delay, 0.25)
