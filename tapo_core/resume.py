"""A run as it can go on, or be forked: the configuration and the flow that its store has."""

from collections.abc import Sequence
from pathlib import Path

from tapo_core.config import PURPOSES, TapoConfig
from tapo_core.config_file import parse_config, set_key
from tapo_core.config_section import Kind
from tapo_core.errors import ConfigError, UserError
from tapo_core.records import PolicyVersion
from tapo_core.revisions import History, changed_keys, combined, refuse_fixed, shaping, stored_history
from tapo_core.session import Flow
from tapo_core.stages.start import flow_of
from tapo_core.store import load, verified_commits

#: Keys that a fork has values of its own for.
_OF_THE_FORK = ("run.name", "run.output_dir", "model.path")


def resumable(
    run_folder: Path, iterations: int | None = None, overrides: Sequence[str] = ()
) -> tuple[TapoConfig, Flow]:
    """The configuration with which a run goes on where it is now, with ``section.key=value`` overrides, and its flow.
    `iterations`: as many in all, not those of the configuration.

    Raises:
        UserError: no run in the folder, it has not begun, or the folder was given another name than the run's.
        IntegrityError: the chain of its commits is broken.
        ConfigError: an override is wrong, or of a key that a run cannot change; or this version of TAPO does not know the run's
            configuration any more.
    """
    history, flow = _stored(run_folder)
    folder = run_folder.absolute()
    if folder.name != history.run.name:
        raise UserError(
            f"{run_folder} holds run {history.run.name}: give the folder that name, which the run's ids are made of"
        )
    tree = history.newest.model_dump(mode="json")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in PURPOSES and PURPOSES[key].kind is Kind.NAMES:
            raise ConfigError(f"--set {override!r}: {key} cannot be changed: {PURPOSES[key].why}")
        set_key(tree, override)
    tree["run"] |= {"name": folder.name, "output_dir": str(folder.parent)}
    if iterations is not None:
        tree["run"]["iterations"] = iterations
    config = parse_config(tree, f"the configuration in {run_folder}")
    shapes = shaping(changed_keys(history.revision.config, config))
    refuse_fixed(shapes, run_folder)
    if shapes and flow != "train":
        raise ConfigError(
            f"{run_folder}: {', '.join(map(str, shapes))}: the settings of a run of the flow {flow} hold for all that it makes; "
            "start it under another run.name"
        )
    return config, flow


def is_revision(config: TapoConfig) -> bool:
    """Whether a configuration of a run that exists differs from its newest revision in a key that shapes trajectories."""
    history = stored_history(config.run_folder)
    return history is not None and bool(shaping(changed_keys(history.revision.config, config)))


def _stored(run_folder: Path) -> tuple[History, Flow]:
    """The configurations of a run, and its flow."""
    commits = verified_commits(run_folder)
    history = stored_history(run_folder) if commits else None
    if history is None:
        raise UserError(f"{run_folder}: this run has not begun; start it with its configuration: tapo train CONFIG")
    return history, flow_of(commits[0])


def forked(run_folder: Path, name: str, iteration: int | None = None, overrides: Sequence[str] = ()) -> TapoConfig:
    """The configuration of a training run beside a run, that begins with the policy which came out of its `iteration` (the newest
    when None; 0 is the initial model). It is the configuration of that iteration with ``section.key=value`` overrides.

    The new run says in table ``origin`` what it was forked from. Its optimizer begins anew, its iterations count from 1.

    Raises:
        UserError: no run in the folder, it has no such policy version, that checkpoint is gone, or the new run exists.
        IntegrityError: the chain of its commits is broken.
        ConfigError: an override is wrong, or this version of TAPO does not know the run's configuration any more.
    """
    history, _ = _stored(run_folder)
    versions = {version.iteration: version for version in load(run_folder, PolicyVersion, run_id=history.run.run_id)}
    version = versions.get(max(versions) if iteration is None else iteration)
    if version is None:
        raise UserError(f"{run_folder}: no policy version {iteration}; there are 0 to {max(versions)}")
    folder = run_folder.absolute()
    checkpoint = folder / version.checkpoint_path
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint} is gone, and with it what policy version {version.iteration} can be forked from")
    if (folder.parent / name).exists():
        raise UserError(f"{folder.parent / name} exists; give the fork another name")
    tree = combined(history.at(version.iteration).config, history.newest).model_dump(mode="json")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OF_THE_FORK:
            raise ConfigError(f"--set {override!r}: {key} follows from what is forked and how the fork is called")
        set_key(tree, override)
    tree["run"] |= {"name": name, "output_dir": str(folder.parent)}
    tree["model"] |= {"path": str(checkpoint)}
    return parse_config(tree, f"the fork of {run_folder}")
