"""A run as a backup, taken at any moment, from which it can be queried, audited and trained further; and the way back.

    manifest.json         every file of the run by its name there, with its SHA-256
    objects/ab/ab12...    the files by their SHA-256, each content once

In it are the published files of the commits that the ledger had, the ledger up to them, the checkpoints of their policy
versions, the newest optimizer state, and the views of the store that flows write. The database is not: it is made from the
published files. Nor is what lies outside the run's folder: the initial model and the data files.

A backup into the same folder copies what is new. Objects are never changed or removed, and the manifest is replaced last, so a
crash leaves the earlier backup. A checkpoint that the run deleted since stays in the backup.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tapo_core.errors import IntegrityError, TransientError, UserError
from tapo_core.files import fsync, make_folder, publish_text
from tapo_core.ids import digest, file_sha256
from tapo_core.records import PolicyVersion, Run
from tapo_core.store.commits import StageCommit
from tapo_core.store.export import MANIFEST, check_files, copy_files, files_of, ledger_of, new_run, read_manifest
from tapo_core.store.reader import load
from tapo_core.store.redact import check_finished, redacted_since
from tapo_core.store.snapshot import snapshot_commits

#: What flows write beside store and policies: views of the store, and curves.
_VIEWS = ("zpd", "cold_start", "tensorboard")
#: A run that trains deletes old optimizer states: whoever is slower than it begins again with the newest.
_ATTEMPTS = 5
_CHUNK = 2**20

_Files = dict[str, str]  #: name in the run's folder -> SHA-256


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup did."""

    manifest: dict[str, Any]
    n_copied: int  #: files whose content was not in the backup yet
    n_bytes: int


@dataclass(slots=True)
class _Objects:
    """The contents in a backup, by SHA-256."""

    folder: Path
    n_copied: int = 0
    n_bytes: int = 0
    _temporary: Path = field(init=False)

    def __post_init__(self) -> None:
        self._temporary = self.folder / f".{os.getpid()}.tmp"

    def place(self, sha256: str) -> Path:
        """Where a content is."""
        return self.folder / sha256[:2] / sha256

    def add(self, file: Path, likely: str | None = None) -> str:
        """Put a file's content in, if it is not there; returns its digest. `likely`: what it may be, and then is not copied."""
        if likely is not None and self.place(likely).exists() and file_sha256(file) == likely:
            return likely
        hasher = hashlib.sha256()
        with file.open("rb") as source, self._temporary.open("wb") as copy:
            while chunk := source.read(_CHUNK):
                hasher.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        return self._keep(hasher.hexdigest())

    def add_bytes(self, content: bytes) -> str:
        """Put a content in, if it is not there; returns its digest."""
        self._temporary.write_bytes(content)
        fsync(self._temporary)
        return self._keep(hashlib.sha256(content).hexdigest())

    def _keep(self, sha256: str) -> str:
        place = self.place(sha256)
        if place.exists():
            self._temporary.unlink()
            return sha256
        place.parent.mkdir(exist_ok=True)
        size = self._temporary.stat().st_size
        os.replace(self._temporary, place)
        fsync(place.parent)
        fsync(self.folder)
        self.n_copied += 1
        self.n_bytes += size
        return sha256


def backup_run(run_folder: Path, folder: Path) -> Backup:
    """Copy a snapshot of a run to a folder, which is new or has an earlier backup of the same run.

    Raises:
        UserError: no run there, nothing committed yet, a redaction is not finished, or the folder has something else in it.
        IntegrityError: a checkpoint does not have its recorded digest, or a published file is missing or not the one that an
            earlier backup has. The earlier backup is as it was.
        TransientError: the folder cannot be written, or the run deletes what is being copied.
    """
    snapshot_commits(run_folder)
    earlier = _earlier(folder)
    objects = _Objects(folder / "objects")
    make_folder(objects.folder)
    try:
        for left in objects.folder.glob(".*.tmp"):  # by a crash
            left.unlink()
        for _ in range(_ATTEMPTS):
            manifest = _take(run_folder, folder, objects, earlier)
            # Gone for good, or gone because the run has newer ones?
            is_newest = len(snapshot_commits(run_folder)) == manifest["n_commits"]
            if is_newest or (manifest["can_train"] and not redacted_since(run_folder, manifest["n_commits"])):
                break
        else:
            raise TransientError(
                f"{run_folder}: policies are deleted faster than they are copied; run the command again"
            )
        publish_text(folder / MANIFEST, [json.dumps(manifest, indent=1)])
    except OSError as error:
        raise TransientError(f"{folder} cannot be made: {error}. An earlier backup in it is as it was.") from error
    return Backup(manifest, objects.n_copied, objects.n_bytes)


def _earlier(folder: Path) -> dict[str, Any] | None:
    """The manifest of the backup in a folder; None if there is none yet."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if MANIFEST in there:
        return read_manifest(folder, "backup")
    if there - {"objects", f".{MANIFEST}.tmp"}:
        raise UserError(f"{folder}: there are other things than a backup in it; name a new folder")
    return None


def _take(run_folder: Path, folder: Path, objects: _Objects, earlier: dict[str, Any] | None) -> dict[str, Any]:
    """Copy a snapshot of the run as it is now; returns its manifest."""
    commits = snapshot_commits(run_folder)
    if not commits:
        raise UserError(f"{run_folder}: nothing was committed yet")
    check_finished(run_folder)
    known: _Files = {} if earlier is None else earlier["files"]
    if earlier is not None:
        _check_same_run(folder, commits, earlier)
    files = {
        name: objects.add(file, known.get(name)) for name, file in _named(run_folder, files_of(run_folder, commits))
    }
    if earlier is not None and not redacted_since(run_folder, earlier["n_commits"]):
        _check_unchanged(run_folder, files, known)
    files["store/ledger.jsonl"] = objects.add_bytes(ledger_of(run_folder, commits))
    versions = _versions(run_folder, commits)
    policies, gone, can_train = _policies(run_folder, objects, versions, known)
    for view in _VIEWS:
        for name, file in _named(run_folder, sorted((run_folder / view).rglob("*"))):
            if file.is_file() and not file.name.startswith("."):
                files[name] = objects.add(file, known.get(name))
    (run,) = load(run_folder, Run)
    return {
        "kind": "backup",
        "run": run.name,
        "n_commits": len(commits),
        "chain_digest": commits[-1].chain_digest,
        "files": dict(sorted((files | policies).items())),
        "gone": gone,
        "can_train": can_train,
        "outside": [version.checkpoint_path for version in versions if _is_outside(version)],
    }


def _named(run_folder: Path, files: Sequence[Path]) -> list[tuple[str, Path]]:
    return [(file.relative_to(run_folder).as_posix(), file) for file in files]


def _check_same_run(folder: Path, commits: Sequence[StageCommit], earlier: Mapping[str, Any]) -> None:
    n_commits = earlier["n_commits"]
    if len(commits) < n_commits or commits[n_commits - 1].chain_digest != earlier["chain_digest"]:
        raise UserError(
            f"{folder} is a backup of another run, or of this one when it had gone on otherwise; name a new folder"
        )


def _check_unchanged(run_folder: Path, files: _Files, known: _Files) -> None:
    """A published file is never changed but by a redaction, so the one that an earlier backup has is the same."""
    for name, sha256 in known.items():
        if name.startswith("store/published/") and files.get(name) != sha256:
            raise IntegrityError(
                f"{run_folder / name} is not the file that was backed up before; `tapo audit verify --run {run_folder}` "
                "says whether the run's is the one that was written"
            )


def _versions(run_folder: Path, commits: Sequence[StageCommit]) -> list[PolicyVersion]:
    """The policy versions that the commits made, newest first."""
    iterations = {commit.iteration for commit in commits if "policy_version" in commit.row_counts}
    found = [version for version in load(run_folder, PolicyVersion) if version.iteration in iterations]
    return sorted(found, key=lambda version: -version.iteration)


def _is_outside(version: PolicyVersion) -> bool:
    """Whether a policy lies outside the run's folder, as the initial model does."""
    return Path(version.checkpoint_path).is_absolute()


def _wanted(versions: Sequence[PolicyVersion]) -> dict[str, str]:
    """Folder -> recorded digest of every checkpoint, and of the optimizer state that training goes on from, newest first."""
    wanted = {}
    for number, version in enumerate(versions):
        if number == 0 and version.optimizer_path is not None and version.optimizer_digest is not None:
            wanted[version.optimizer_path] = version.optimizer_digest
        if not _is_outside(version):
            wanted[version.checkpoint_path] = version.checkpoint_digest
    return wanted


def _policies(
    run_folder: Path, objects: _Objects, versions: Sequence[PolicyVersion], known: _Files
) -> tuple[_Files, list[str], bool]:
    """The files of policies, the folders that are gone, and whether the newest version is whole, optimizer state included.

    What an earlier backup has of `policies/` stays, whether the run still has it or not.
    """
    files = {name: sha256 for name, sha256 in known.items() if name.startswith("policies/")}
    gone = []
    for path, recorded in _wanted(versions).items():
        held = _below(path, files)
        if digest(held) == recorded and all(objects.place(sha256).exists() for sha256 in held.values()):
            continue
        copied = _copy_tree(run_folder / path, objects, recorded)
        if copied is None:
            gone.append(path)
        else:
            files |= {f"{path}/{name}": sha256 for name, sha256 in copied.items()}
    newest = versions[0]
    return files, gone, not {newest.checkpoint_path, newest.optimizer_path} & set(gone)


def _below(path: str, files: _Files) -> _Files:
    """The files below a folder, by their names from there."""
    return {name.removeprefix(f"{path}/"): sha256 for name, sha256 in files.items() if name.startswith(f"{path}/")}


def _copy_tree(folder: Path, objects: _Objects, recorded: str) -> _Files | None:
    """Copy a folder whole; None when it is gone, or goes meanwhile.

    Raises:
        IntegrityError: it does not have its recorded digest.
    """
    try:
        files = {name: objects.add(file) for name, file in _named(folder, sorted(folder.rglob("*"))) if file.is_file()}
    except FileNotFoundError:
        if folder.is_dir():
            raise
        return None
    if not folder.is_dir():
        return None
    if digest(files) != recorded:
        raise IntegrityError(
            f"{folder} does not have its recorded digest, so it was not backed up. Put back what was written, or delete it "
            "to back the run up without it."
        )
    return files


def restore_run(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Make a run of a backup, complete or not at all. Returns the manifest.

    Raises:
        UserError: no backup there, or the run's folder exists.
        IntegrityError: a file is missing or was changed; or files do not agree with the run's own digests.
    """
    manifest = read_manifest(folder, "backup")
    if run_folder.exists():
        raise UserError(f"{run_folder} exists; name a new folder")
    objects = _Objects(folder / "objects")
    files: _Files = manifest["files"]
    places = {name: objects.place(sha256) for name, sha256 in files.items()}
    check_files(manifest, places, "backed up")
    store = {name: place for name, place in places.items() if name.startswith("store/")}
    with new_run(run_folder, store) as made:
        for path, recorded in _wanted(_versions(made, snapshot_commits(made))).items():
            held = _below(path, files)
            if held and digest(held) != recorded:
                raise IntegrityError(f"{folder / MANIFEST}: {path} does not have the digest that the run has for it")
        copy_files({name: place for name, place in places.items() if name not in store}, made)
    return manifest
