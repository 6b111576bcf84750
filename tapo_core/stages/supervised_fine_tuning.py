"""Cold start: fine-tune the initial model on the chosen examples, and publish the policy version that training begins with."""

from pathlib import Path

from tapo_core.ids import deterministic_id, tree_digest
from tapo_core.records import PolicyVersion, UpdateMetric
from tapo_core.session import Session
from tapo_core.stages.build_cold_start_data import training_examples
from tapo_core.store import Record, StageCommit

STAGE = "supervised_fine_tuning"


def checkpoint_folder(run_folder: Path, iteration: int) -> Path:
    """Where a run's policy version lies as a Hugging Face checkpoint: what `model.path` of another run takes."""
    return run_folder / "policies" / f"{iteration:06d}" / "hf"


def supervised_fine_tuning(session: Session, iteration: int, input_digest: str) -> StageCommit:
    """All optimizer steps, a published checkpoint, and the rows that say what was done. The parent is the initial model.

    Metrics are named ``sft/...``, so that no view takes them for an update's.
    """
    done = session.done(STAGE, iteration, input_digest)
    if done is not None:
        return done
    parent = session.policy_version(0)
    examples = training_examples(session, iteration)
    folder = checkpoint_folder(session.folder, iteration)
    tuner = session.fine_tuner()
    try:
        steps = tuner.fine_tune(
            session.ref(parent),
            examples,
            session.seed(iteration, STAGE),
            lambda n, total: session.reporter.advance(n, total, "optimizer steps"),
        )
        tuner.publish(folder.parent)
    finally:
        tuner.close()
    version = PolicyVersion(
        policy_version_id=deterministic_id("policy_version", run=session.run_id, iteration=iteration),
        run_id=session.run_id,
        iteration=iteration,
        parent_policy_version_id=parent.policy_version_id,
        checkpoint_path=str(folder.relative_to(session.folder)),
        checkpoint_digest=tree_digest(folder),
        optimizer_path=None,
        optimizer_digest=None,
        optimizer_steps=len(steps),
    )
    records: list[Record] = [version]
    records += [
        UpdateMetric(session.run_id, iteration, version.policy_version_id, number, f"sft/{name}", value)
        for number, step in enumerate(steps)
        for name, value in step.values.items()
    ]
    manifest = {
        "policy_version_id": version.policy_version_id,
        "checkpoint_digest": version.checkpoint_digest,
        "n_examples": len(examples),
        "n_steps": len(steps),
    }
    return session.commit(STAGE, iteration, input_digest, manifest, records)
