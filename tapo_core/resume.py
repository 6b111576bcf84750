"""A run as it can go on: the configuration and the flow that its store has."""

import json
from pathlib import Path

from tapo_core.config import TapoConfig
from tapo_core.config_file import parse_config
from tapo_core.errors import UserError
from tapo_core.records import Config, Run
from tapo_core.session import Flow
from tapo_core.stages.start import flow_of
from tapo_core.store import load, verified_commits


def resumable(run_folder: Path, iterations: int | None = None) -> tuple[TapoConfig, Flow]:
    """The configuration with which a run goes on where it is now, and its flow. `iterations`: as many in all, not those of the
    configuration.

    Raises:
        UserError: no run in the folder, it has not begun, or the folder was given another name than the run's.
        IntegrityError: the chain of its commits is broken.
        ConfigError: this version of TAPO does not know the run's configuration any more.
    """
    commits = verified_commits(run_folder)
    if not commits:
        raise UserError(f"{run_folder}: this run has not begun; start it with its configuration: tapo train CONFIG")
    (run,), (stored,) = load(run_folder, Run), load(run_folder, Config)
    folder = run_folder.absolute()
    if folder.name != run.name:
        raise UserError(
            f"{run_folder} holds run {run.name}: give the folder that name, which the run's ids are made of"
        )
    tree = json.loads(stored.config_json)
    tree["run"] |= {"name": folder.name, "output_dir": str(folder.parent)}
    if iterations is not None:
        tree["run"]["iterations"] = iterations
    return parse_config(tree, f"the configuration in {run_folder}"), flow_of(commits[0])
