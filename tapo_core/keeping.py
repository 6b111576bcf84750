"""Which checkpoints of a run can go."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tapo_core.records import Evaluation, PolicyVersion
from tapo_core.store import load


def spare_versions(versions: Sequence[PolicyVersion], scores: Mapping[str, float], keep: int) -> list[PolicyVersion]:
    """The trained policy versions that are neither among the newest `keep` nor the best, oldest first.

    `scores`: held-out pass@1 by id, of those that were evaluated; of equal ones the newest is the best. The initial model is
    never among them.
    """
    trained = sorted((v for v in versions if v.parent_policy_version_id is not None), key=lambda v: v.iteration)
    evaluated = [version for version in trained if version.policy_version_id in scores]
    best = max(evaluated, key=lambda v: (scores[v.policy_version_id], v.iteration), default=None)
    return [version for version in trained[: max(0, len(trained) - keep)] if version is not best]


def spare_checkpoints(run_folder: Path, keep: int) -> list[Path]:
    """The checkpoints of a run's `spare_versions` that are still there.

    The newest is what a run goes on from. No row goes with them: what was sampled from a policy stays known, with the digest of
    its checkpoint.

    Raises:
        UserError: no run in the folder.
    """
    found = load(run_folder, Evaluation, dataset="held_out", metric="pass@1")
    scores = {row.policy_version_id: row.value for row in found}
    versions = spare_versions(load(run_folder, PolicyVersion), scores, keep)
    folders = [run_folder / version.checkpoint_path for version in versions]
    return [folder for folder in folders if folder.is_dir()]
