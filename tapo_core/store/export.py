"""A run as a folder of its own: published files, ledger, a manifest of digests, and the trajectories as a data set.

    manifest.json                      every file with its SHA-256; the run, its last chain digest
    store/published/..., ledger.jsonl  what `tapo audit verify` checks and `import_run` takes; the database is made from them
    data/trajectory.parquet            the view `trajectory`, one row a rollout or constructed trajectory
    README.md                          says to Hugging Face `datasets` that the data set is data/trajectory.parquet

Policies are not in it: they are large, and their digests are.
"""

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tapo_core.errors import IntegrityError, TransientError, UserError
from tapo_core.files import fsync_tree, publish_folder
from tapo_core.ids import file_sha256
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import ledger_path, published_folder
from tapo_core.store.publish import published_files
from tapo_core.store.redact import check_finished, redacted_since
from tapo_core.store.repair import repair
from tapo_core.store.snapshot import open_reader, snapshot_commits

MANIFEST = "manifest.json"
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
        UserError: no run there, nothing committed yet, a redaction is not finished, or the folder exists.
        IntegrityError: a published file is missing.
        TransientError: a query was redacted meanwhile.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder")
    commits = snapshot_commits(run_folder)
    if not commits:
        raise UserError(f"{run_folder}: nothing was committed yet")
    check_finished(run_folder)
    with publish_folder(folder) as made:
        copy_files({file.relative_to(run_folder).as_posix(): file for file in files_of(run_folder, commits)}, made)
        ledger_path(made).write_bytes(ledger_of(run_folder, commits))
        name = _write_trajectories(made, made / "data" / "trajectory.parquet")
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
        if redacted_since(run_folder, len(commits)):
            raise TransientError(f"{run_folder}: a query was redacted meanwhile; run the command again")
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def files_of(run_folder: Path, commits: Sequence[StageCommit]) -> list[Path]:
    """The published files of commits, by table.

    Raises:
        IntegrityError: one is missing.
    """
    tables = {table for commit in commits for table in commit.row_counts}
    files = [file for table in sorted(tables) for file in map(Path, published_files(run_folder, commits, table))]
    for file in files:
        if not file.exists():
            raise IntegrityError(f"{file} is missing; see `tapo audit verify`")
    return files


def ledger_of(run_folder: Path, commits: Sequence[StageCommit]) -> bytes:
    """The ledger's lines about the first commits of a run."""
    return b"".join(ledger_path(run_folder).read_bytes().splitlines(keepends=True)[: len(commits)])


def copy_files(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files into a folder under the names that they have there."""
    for name, file in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


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
    manifest = read_manifest(folder, "export")
    files = {name: folder / name for name in manifest["files"]}
    check_files(manifest, files, "exported; export the run again")
    with new_run(run_folder, {name: file for name, file in files.items() if name.startswith("store/")}):
        pass
    return manifest


def read_manifest(folder: Path, what: str) -> dict[str, Any]:
    """The manifest of a folder that is `what`: "export" or "backup".

    Raises:
        UserError: it is none.
        IntegrityError: the manifest names a file outside the folder, or one without a digest.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind, files = manifest.get("kind", "export"), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: no {what} of a run ({MANIFEST} is missing or is none)") from error
    if kind != what:
        command = "import" if kind == "export" else "restore"
        raise UserError(f"{folder}: no {what} of a run; it may be what `tapo {command}` takes")
    for name, sha256 in files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise IntegrityError(f"{folder / MANIFEST}: {name!r} is outside the {what}")
        if not isinstance(sha256, str) or not _is_sha256(sha256):
            raise IntegrityError(f"{folder / MANIFEST}: {name!r} has no SHA-256")
    return manifest


_is_sha256 = re.compile(r"[0-9a-f]{64}").fullmatch


def check_files(manifest: Mapping[str, Any], places: Mapping[str, Path], was: str) -> None:
    """Hold the files of a manifest, wherever they are, against their digests.

    Raises:
        IntegrityError: one is missing or was changed.
    """
    for name, sha256 in manifest["files"].items():
        place = places[name]
        if not place.is_file() or file_sha256(place) != sha256:
            raise IntegrityError(f"{place} is missing or not the file that was {was} [{name}]")


@contextlib.contextmanager
def new_run(run_folder: Path, store: Mapping[str, Path]) -> Iterator[Path]:
    """Make a run of the files of its store, complete or not at all; its database is made from the published files.

    Gives the folder before it has its name, so that more can be put into it.

    Raises:
        UserError: the run's folder exists.
        IntegrityError: ledger and published files do not agree.
    """
    if run_folder.exists():
        raise UserError(f"{run_folder} exists; name a new folder")
    with publish_folder(run_folder) as made:
        copy_files(store, made)
        published_folder(made).mkdir(parents=True, exist_ok=True)
        repair(made)  # it lacks a database, and nothing else
        yield made
        fsync_tree(made)
