"""A run taken back to before one of its stages, to do it again. What the run was is kept whole, in a folder beside it.

In the new chain a commit says what was taken back (stage ``rewind-1``, of the iteration): how many commits, the chain digest that
the run had, and the folder that has them.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tapo_core.errors import UserError
from tapo_core.files import fsync
from tapo_core.ids import digest, tree_digest
from tapo_core.locks import lock_run
from tapo_core.records import PolicyVersion
from tapo_core.store import StageCommit, StoreWriter, load, verified_commits
from tapo_core.store.export import files_of, ledger_of, new_run

STAGE = "rewind"


def rewind_run(run_folder: Path, stage: str, iteration: int) -> Path:
    """Take a run back to before a stage of an iteration. Returns the folder that has the run as it was.

    A crash leaves the run as it was, or what `finish_rewind` finishes.

    Raises:
        UserError: the run has no such stage, cannot be trained on from there, or a query was redacted since. Nothing was changed.
        RunLockedError: another process works on the run.
        IntegrityError: the run's commits, files or policies are not what was written. Nothing was changed.
    """
    run_folder = run_folder.absolute()
    rewound = _rewound(run_folder)
    if not run_folder.is_dir():
        raise UserError(f"no run in {run_folder}. Give the folder of a run.")
    unlock = lock_run(run_folder)
    try:
        commits = verified_commits(run_folder)
        places = [(commit.iteration, commit.stage) for commit in commits]
        if (iteration, stage) not in places[1:]:
            raise UserError(
                f"{run_folder}: {stage} of iteration {iteration} is not a stage that can be done again: the run has not made it, "
                "or begins with it. tapo resume without --from and --iteration goes on at the first stage that is missing"
            )
        kept = commits[: places.index((iteration, stage), 1)]
        taken_back = commits[len(kept) :]
        _check_nothing_redacted(run_folder, taken_back)
        versions = _versions(run_folder, kept)
        _check_trainable(run_folder, versions)
        shutil.rmtree(rewound, ignore_errors=True)  # of a crash
        store = {file.relative_to(run_folder).as_posix(): file for file in files_of(run_folder, kept)}
        ledger = run_folder / "store" / ".ledger.rewound"
        ledger.write_bytes(ledger_of(run_folder, kept))
        try:
            with new_run(rewound, store | {"store/ledger.jsonl": ledger}) as made:
                _say(made, taken_back, _free_name(run_folder).name)
                for version in versions:
                    for path in (version.checkpoint_path, version.optimizer_path):
                        if path is not None and (run_folder / path).is_dir() and not Path(path).is_absolute():
                            shutil.copytree(run_folder / path, made / path, copy_function=_link)
        finally:
            ledger.unlink()
        kept_in = _free_name(run_folder)
        os.replace(run_folder, kept_in)
        finish_rewind(run_folder)
        return kept_in
    finally:
        unlock()


def finish_rewind(run_folder: Path) -> None:
    """Give a rewound run its name, if a crash came between the two renamings. Most often there is nothing to do."""
    rewound = _rewound(run_folder.absolute())
    if rewound.exists() and not run_folder.exists():
        os.replace(rewound, run_folder)
        fsync(rewound.parent)


def _rewound(run_folder: Path) -> Path:
    return run_folder.with_name(f".{run_folder.name}.rewound")


def _link(source: str, place: str) -> None:
    """Files of policies are written once, so both runs may have the same; a copy where the file system has no links."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _check_nothing_redacted(run_folder: Path, taken_back: Sequence[StageCommit]) -> None:
    for commit in taken_back:
        if "redaction" in commit.row_counts:
            raise UserError(
                f"{run_folder}: a query was redacted since (commit {commit.seq}), and a run that is taken back to before that "
                "would no longer say so; tapo fork it instead"
            )


def _versions(run_folder: Path, kept: Sequence[StageCommit]) -> list[PolicyVersion]:
    """The policy versions that the kept commits made, oldest first."""
    iterations = {commit.iteration for commit in kept if "policy_version" in commit.row_counts}
    found = [version for version in load(run_folder, PolicyVersion) if version.iteration in iterations]
    return sorted(found, key=lambda version: version.iteration)


def _check_trainable(run_folder: Path, versions: Sequence[PolicyVersion]) -> None:
    """The newest of the policy versions must be there whole: training goes on from it."""
    newest = versions[-1]
    for path, recorded, what in (
        (newest.checkpoint_path, newest.checkpoint_digest, "checkpoint"),
        (newest.optimizer_path, newest.optimizer_digest, "optimizer state"),
    ):
        if path is not None and (not (run_folder / path).is_dir() or tree_digest(run_folder / path) != recorded):
            raise UserError(
                f"{run_folder / path}: the {what} of policy version {newest.iteration} is gone or not what was written, and "
                "training cannot go on from there (update.keep_optimizer_states, tapo gc); tapo fork begins a new optimizer"
            )


def _say(made: Path, taken_back: Sequence[StageCommit], kept_in: str) -> None:
    first, last = taken_back[0], taken_back[-1]
    number = 1 + sum(commit.stage.startswith(f"{STAGE}-") for commit in verified_commits(made))
    StoreWriter(made).commit_stage(
        run_id=first.run_id,
        iteration=first.iteration,
        stage=f"{STAGE}-{number}",
        config_digest=first.config_digest,
        input_digest=digest([last.chain_digest, first.seq]),
        manifest={
            "from": first.stage,
            "n_commits": len(taken_back),
            "chain_digest": last.chain_digest,
            "kept_in": kept_in,
        },
        records=[],
    )


def _free_name(run_folder: Path) -> Path:
    number = 1
    while (found := run_folder.with_name(f"{run_folder.name}.before-rewind-{number}")).exists():
        number += 1
    return found
