"""Stage 0: the run, its configuration, its queries and the initial policy enter the store."""

from datetime import UTC, datetime
from pathlib import Path

import tapo_core
from tapo_core.data import load_queries
from tapo_core.errors import ConfigError, DataError
from tapo_core.files import check_folder
from tapo_core.ids import canonical_json, deterministic_id, digest, tree_digest
from tapo_core.records import Config, PolicyVersion, Query, Run
from tapo_core.session import Session, engine_versions
from tapo_core.store import StageCommit, load
from tapo_core.tracking import check_tracking

STAGE = "start"


def check_inputs(session: Session) -> list[Query]:
    """The run's queries, after everything that a person can get wrong was looked at.

    Writes nothing, but for bringing the store of a run that exists up to the present version.

    Raises:
        ConfigError: a run of this name exists with another configuration, or a package for tracking is missing.
        DataError: a data file is missing or malformed, or holds too few queries.
        UserError: no checkpoint at model.path, or the run's folder could not be made or written to.
    """
    config = session.config
    check_tracking(config.tracking)
    check_folder(session.folder)
    if (session.folder / "store").exists():
        session.open_store()
        _refuse_other_configuration(session)
    queries = []
    files = {"train": session.assets.train, "held_out": session.assets.held_out}
    files |= {name: Path(path) for name, path in config.evaluation.datasets.items()}
    for split, path in files.items():
        queries += load_queries(path, split, session.run_id, config.data.instruction)
    n_train = sum(query.split == "train" for query in queries)
    if n_train < config.data.queries_per_iteration:
        raise DataError(
            f"{session.assets.train}: {n_train} queries, fewer than data.queries_per_iteration = "
            f"{config.data.queries_per_iteration}; add rows or lower it"
        )
    for query in queries:
        session.prompt_of(query, config.sampler.max_new_tokens)
    return queries


def start(session: Session) -> StageCommit:
    """Begin a run, or find it begun.

    Raises:
        UserError: see `check_inputs`; or the data or the model changed since the run began. Nothing was written.
    """
    config = session.config
    queries = check_inputs(session)
    session.open_store()
    policy = PolicyVersion(
        policy_version_id=deterministic_id("policy_version", run=session.run_id, iteration=0),
        run_id=session.run_id,
        iteration=0,
        parent_policy_version_id=None,
        checkpoint_path=str(session.assets.model.resolve()),
        checkpoint_digest=tree_digest(session.assets.model),
        optimizer_path=None,
        optimizer_digest=None,
        optimizer_steps=0,
    )
    inputs = digest([policy.checkpoint_digest, sorted(query.query_id for query in queries)])
    done = session.done(STAGE, 0, inputs)
    if done is not None:
        return done
    run = Run(
        run_id=session.run_id,
        name=config.run.name,
        seed=config.run.seed,
        method=config.method,
        config_digest=session.config_digest,
        tapo_version=tapo_core.__version__,
        engine_versions=engine_versions(),
        created_at=datetime.now(UTC).isoformat(),
    )
    resolved = Config(session.config_digest, canonical_json(config.model_dump(mode="json")))
    manifest = {"policy_version_id": policy.policy_version_id, "n_queries": len(queries)}
    return session.commit(STAGE, 0, inputs, manifest, [run, resolved, policy, *queries])


def _refuse_other_configuration(session: Session) -> None:
    runs = load(session.folder, Run)
    if runs and all(run.run_id != session.run_id for run in runs):
        raise ConfigError(
            f"{session.folder}: a run of this name exists with another configuration (digest "
            f"{runs[0].config_digest[:12]}, now {session.config_digest[:12]}); choose another run.name, or delete the folder"
        )
