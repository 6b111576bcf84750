"""A run as a folder of its own: published files, ledger, a manifest of digests, and the trajectories as a data set.

    manifest.json                      every file with its SHA-256; the run, its last chain digest
    store/published/..., ledger.jsonl  what `tapo audit verify` checks and `import_run` takes; the database is made from them
    data/trajectory.parquet            the view `trajectory`, one row a rollout or constructed trajectory
    README.md                          says to Hugging Face `datasets` that the data set is data/trajectory.parquet

Policies are not in it: they are large, and their digests are.
"""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tapo_core.errors import IntegrityError, UserError
from tapo_core.files import publish_folder
from tapo_core.ids import file_sha256
from tapo_core.store.connection import ledger_path, published_folder
from tapo_core.store.publish import published_files
from tapo_core.store.repair import repair
from tapo_core.store.snapshot import open_reader, snapshot_commits

_MANIFEST = "manifest.json"
_CARD = """\
---
configs:
- config_name: default
  data_files: data/trajectory.parquet
---
Trajectories of the TAPO run {name}: rollouts and constructed trajectories with verdicts, decisions and advantages.
The whole store is in `store/`; `tapo import` makes a run of it again.
"""
_ROWS_A_BATCH = 10_000


def export_run(run_folder: Path, folder: Path) -> dict[str, Any]:
    """Write a snapshot of a run to a new folder, complete or not at all. Returns the manifest.

    Raises:
        UserError: no run there, nothing committed yet, or the folder exists.
        IntegrityError: a published file is missing.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder")
    commits = snapshot_commits(run_folder)
    if not commits:
        raise UserError(f"{run_folder}: nothing was committed yet")
    tables = {table for commit in commits for table in commit.row_counts}
    files = [file for table in sorted(tables) for file in map(Path, published_files(run_folder, commits, table))]
    with publish_folder(folder) as made:
        for file in files:
            if not file.exists():
                raise IntegrityError(f"{file} is missing; see `tapo audit verify`")
            place = made / file.relative_to(run_folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        lines = ledger_path(run_folder).read_text(encoding="utf-8").splitlines(keepends=True)[: len(commits)]
        ledger_path(made).write_text("".join(lines), encoding="utf-8")
        name = _write_trajectories(run_folder, made / "data" / "trajectory.parquet")
        (made / "README.md").write_text(_CARD.format(name=name), encoding="utf-8")
        manifest = {
            "run": name,
            "n_commits": len(commits),
            "chain_digest": commits[-1].chain_digest,
            "files": {
                path.relative_to(made).as_posix(): file_sha256(path)
                for path in sorted(made.rglob("*"))
                if path.is_file()
            },
        }
        (made / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _write_trajectories(run_folder: Path, file: Path) -> str:
    """The view `trajectory` as one Parquet file, ids as text. Returns the run's name."""
    file.parent.mkdir(parents=True)
    with contextlib.closing(open_reader(run_folder)) as connection:
        names = connection.execute("SELECT name FROM run").fetchall()
        columns = connection.execute("SELECT column_name, column_type FROM (DESCRIBE trajectory)").fetchall()
        chosen = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" if kind == "UUID" else name for name, kind in columns)
        reader = connection.sql(f"SELECT {chosen} FROM trajectory ORDER BY ALL").to_arrow_reader(_ROWS_A_BATCH)
        with pyarrow.parquet.ParquetWriter(file, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
    return str(names[0][0]) if names else ""


def import_run(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Make a run of an export: its store, with a database made from the published files. Returns the manifest.

    Raises:
        UserError: no export there, or the run's folder exists.
        IntegrityError: a file is missing, was changed, or does not belong to the export.
    """
    if run_folder.exists():
        raise UserError(f"{run_folder} exists; name a new folder")
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no export of a run ({_MANIFEST} is missing or is none)") from error
    for name, sha256 in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise IntegrityError(f"{folder / _MANIFEST}: {name!r} is outside the export")
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise IntegrityError(f"{folder / name} is missing or not the file that was exported; export the run again")
    with publish_folder(run_folder) as made:
        for name in files:
            if name.startswith("store/"):
                place = made / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, place)
        published_folder(made).mkdir(parents=True, exist_ok=True)
        repair(made)  # it lacks a database, and nothing else
    return manifest
