"""A run as it can go on, or be forked: the configuration and the flow that its store has."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapo_core.config import TapoConfig
from tapo_core.config_file import parse_config, set_key
from tapo_core.errors import ConfigError, UserError
from tapo_core.records import Config, PolicyVersion, Run
from tapo_core.session import Flow
from tapo_core.stages.start import flow_of
from tapo_core.store import load, verified_commits

#: Keys that a fork has values of its own for.
_OF_THE_FORK = ("run.name", "run.output_dir", "model.path")


def resumable(run_folder: Path, iterations: int | None = None) -> tuple[TapoConfig, Flow]:
    """The configuration with which a run goes on where it is now, and its flow. `iterations`: as many in all, not those of the
    configuration.

    Raises:
        UserError: no run in the folder, it has not begun, or the folder was given another name than the run's.
        IntegrityError: the chain of its commits is broken.
        ConfigError: this version of TAPO does not know the run's configuration any more.
    """
    run, tree, flow = _stored(run_folder)
    folder = run_folder.absolute()
    if folder.name != run.name:
        raise UserError(
            f"{run_folder} holds run {run.name}: give the folder that name, which the run's ids are made of"
        )
    tree["run"] |= {"name": folder.name, "output_dir": str(folder.parent)}
    if iterations is not None:
        tree["run"]["iterations"] = iterations
    return parse_config(tree, f"the configuration in {run_folder}"), flow


def _stored(run_folder: Path) -> tuple[Run, dict[str, Any], Flow]:
    """A run, its configuration as a plain tree, and its flow."""
    commits = verified_commits(run_folder)
    if not commits:
        raise UserError(f"{run_folder}: this run has not begun; start it with its configuration: tapo train CONFIG")
    (run,), (stored,) = load(run_folder, Run), load(run_folder, Config)
    return run, json.loads(stored.config_json), flow_of(commits[0])


def forked(run_folder: Path, name: str, iteration: int | None = None, overrides: Sequence[str] = ()) -> TapoConfig:
    """The configuration of a training run beside a run, that begins with the policy which came out of its `iteration` (the newest
    when None; 0 is the initial model), with its configuration but for ``section.key=value`` overrides.

    The new run says in table ``origin`` what it was forked from. Its optimizer begins anew, its iterations count from 1.

    Raises:
        UserError: no run in the folder, it has no such policy version, that checkpoint is gone, or the new run exists.
        IntegrityError: the chain of its commits is broken.
        ConfigError: an override is wrong, or this version of TAPO does not know the run's configuration any more.
    """
    run, tree, _ = _stored(run_folder)
    versions = {version.iteration: version for version in load(run_folder, PolicyVersion, run_id=run.run_id)}
    version = versions.get(max(versions) if iteration is None else iteration)
    if version is None:
        raise UserError(f"{run_folder}: no policy version {iteration}; there are 0 to {max(versions)}")
    folder = run_folder.absolute()
    checkpoint = folder / version.checkpoint_path
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint} is gone, and with it what policy version {version.iteration} can be forked from")
    if (folder.parent / name).exists():
        raise UserError(f"{folder.parent / name} exists; give the fork another name")
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OF_THE_FORK:
            raise ConfigError(f"--set {override!r}: {key} follows from what is forked and how the fork is called")
        set_key(tree, override)
    tree["run"] |= {"name": name, "output_dir": str(folder.parent)}
    tree["model"] |= {"path": str(checkpoint)}
    return parse_config(tree, f"the fork of {run_folder}")
