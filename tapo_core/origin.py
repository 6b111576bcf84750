"""Where an initial model came from, when a run made it: a fork of the run, or training behind its cold start."""

from pathlib import Path

from tapo_core.ids import deterministic_id
from tapo_core.records import Origin, PolicyVersion, Run
from tapo_core.store import load, verified_commits
from tapo_core.store.connection import ledger_path


def find_origin(checkpoint: Path, version: PolicyVersion) -> Origin | None:
    """The policy version of another run that a checkpoint is; None if it lies in no run, or is not what that run made.

    `version`: version 0 of the run that begins, with the checkpoint's digest.

    Raises:
        UserError, IntegrityError: it lies in a run whose store cannot be read.
    """
    folder = next((above for above in checkpoint.resolve().parents if ledger_path(above).is_file()), None)
    if folder is None:
        return None
    for made in load(folder, PolicyVersion, checkpoint_digest=version.checkpoint_digest):
        if (folder / made.checkpoint_path).resolve() != checkpoint.resolve():
            continue
        (run,) = load(folder, Run, run_id=made.run_id)
        commit = next(
            c
            for c in verified_commits(folder)
            if c.iteration == made.iteration and "policy_version" in c.row_counts and c.run_id == made.run_id
        )
        return Origin(
            origin_id=deterministic_id("origin", run=version.run_id),
            run_id=version.run_id,
            policy_version_id=version.policy_version_id,
            parent_run_id=run.run_id,
            parent_run_name=run.name,
            parent_folder=str(folder),
            parent_iteration=made.iteration,
            parent_policy_version_id=made.policy_version_id,
            parent_config_digest=commit.config_digest,
            parent_chain_digest=commit.chain_digest,
        )
    return None
