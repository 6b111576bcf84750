"""What an operator starts from the Prefect UI: the flows behind a small form. `tapo up` deploys them (prefect.yaml).

The flows proper are called as plain code inside the flow run that the form started, so that a retry of that flow run finds the
results of its stages and goes on behind them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.runtime import flow_run
from prefect.utilities.schema_tools.hydration import HydrationContext, HydrationError, Placeholder, hydrate
from pydantic import BeforeValidator, Field

from flows.cancelling import obeying_cancel
from flows.cold_start import ColdStartResult, cold_start
from flows.evaluate import evaluate_policy
from flows.repair import crash_stale_tasks
from flows.train import TrainResult, train
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config
from tapo_core.errors import ConfigError
from tapo_core.locks import lock_run
from tapo_core.processes import WORKER_LOG
from tapo_core.progress import reporting
from tapo_core.records import PolicyVersion
from tapo_core.resume import resumable
from tapo_core.revisions import stored_history
from tapo_core.store import load
from tasks.options import StageResult
from tasks.progress import ArtifactReporter

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

MOST = 100_000  #: iterations that a form takes; more is a slip of the keyboard

#: Name in the form -> file.
PRESETS = {path.stem.replace("_", "-"): path for path in sorted(CONFIGS.glob("*.toml"))}
_COLD_STARTS = [name for name in PRESETS if name.endswith("-cold-start")]
_USUAL = "nano-tapo"  #: the preset of a form that nobody touched
_TRAININGS = [name for name in PRESETS if name not in _COLD_STARTS]


def _plain(value: Any) -> Any:
    """A parameter as it is meant. What is typed under Use JSON input is a text with a mark until Prefect reads it, which it does
    when a flow run is started from the form, and not for a schedule.

    Raises:
        ValueError: it is not JSON, or refers to what only the server knows.
    """
    try:
        found = hydrate({"value": value}, HydrationContext(raise_on_error=True)).get("value")
    except HydrationError as error:
        raise ValueError(str(error)) from error
    if isinstance(found, Placeholder):
        raise ValueError("a template or variable of Prefect cannot be read here; type the value itself")
    return found


def _form(title: str, description: str, **constraints: Any) -> Any:
    """A field of the form. Prefect overwrites a field's own title and description, but not what is in `json_schema_extra`."""
    enum = constraints.pop("enum", None)
    shown = {"title": title, "description": description} | ({} if enum is None else {"enum": enum})
    return Field(json_schema_extra=shown, **constraints)


_PLAIN = BeforeValidator(_plain)
_START_FROM = "The configuration to start from (folder configs); Overrides change single keys of it."
TrainingPreset = Annotated[str, _form("Preset", _START_FROM, enum=_TRAININGS), _PLAIN]
ColdStartPreset = Annotated[str, _form("Preset", _START_FROM, enum=_COLD_STARTS), _PLAIN]
AnyPreset = Annotated[str, _form("Preset", "The configuration that the run was made with.", enum=[*PRESETS]), _PLAIN]
Name = Annotated[
    str | None,
    _form(
        "Run name",
        "A new name begins a run, an old one goes on with it: with its own settings where Preset, Seed and Overrides are left as "
        "they are. Empty: the preset's name.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    ),
    _PLAIN,
]
Iterations = Annotated[
    int | None,
    _form("Iterations", "Train until the run has this many. Empty: as the preset says.", ge=1, le=MOST),
    _PLAIN,
]
More = Annotated[
    int | None,
    _form(
        "More iterations",
        "Instead of Iterations, for schedules: train this many from the run's latest policy version on.",
        ge=1,
        le=MOST,
    ),
    _PLAIN,
]
Seed = Annotated[int | None, _form("Seed", "Of every random draw. Empty: the preset's.", ge=0, le=2**31 - 1), _PLAIN]
Version = Annotated[
    int | None,
    _form("Policy version", "The iteration it came out of; 0 is the initial model. Empty: the newest.", ge=0, le=MOST),
    _PLAIN,
]
Overrides = Annotated[
    list[Annotated[str, Field(pattern=r"^\s*\w+(\.[\w-]+)*\s*=")]],
    _form("Overrides", "Each section.key=value, as after tapo train --set; the keys are in docs/configuration.md."),
    _PLAIN,
]


def _run_name() -> str:
    """A flow run is called like the run that it works on."""
    parameters = flow_run.parameters
    return str(parameters.get("name") or parameters["preset"])


def _configuration(preset: str, name: str | None, seed: int | None, overrides: list[str], *more: str) -> TapoConfig:
    """The preset with what the form says; the form's own fields win over the overrides.

    Raises:
        ConfigError: naming what is wrong.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}: there is no such file in {CONFIGS}; choose one of {', '.join(PRESETS)}")
    fields = [f'run.name="{name}"'] if name else []
    fields += [] if seed is None else [f"run.seed={seed}"]
    return load_config(PRESETS[preset], [*overrides, *fields, *more])


def _training(
    preset: str, name: str | None, seed: int | None, overrides: list[str], iterations: int | None = None
) -> TapoConfig:
    """The configuration of a training run: a run that exists is named by its name alone.

    Raises:
        UserError: see `_configuration` and `resumable`.
    """
    more = [] if iterations is None else [f"run.iterations={iterations}"]
    config = _configuration(preset, name, seed, overrides, *more)
    as_it_is = name is not None and preset == _USUAL and seed is None and not overrides
    if as_it_is and stored_history(config.run_folder) is not None:
        config, _ = resumable(config.run_folder, iterations)
    return config


def _outlive_worker() -> None:
    """Print straight into the worker's log, if `tapo up` started the worker: what it gives to its child is a pipe, and whoever
    prints into it when the worker is dead is ended by Prefect's console (SystemExit on a broken pipe).
    """
    if log := os.environ.get(WORKER_LOG):
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)


@contextmanager
def _operated(config: TapoConfig) -> Iterator[None]:
    """Work on a run with progress in the UI. Before all else, also before `fix_target` counts: nobody else works on the run, and
    earlier attempts are marked as ended.

    Raises:
        RunLockedError: somebody does. Retry the flow run when that has ended.
    """
    _outlive_worker()
    if config.run_folder.exists():
        lock_run(config.run_folder)()
    crash_stale_tasks(flow_run.id)
    with obeying_cancel(flow_run.id), reporting(ArtifactReporter()):
        yield


def _key_of_flow_run(context: TaskRunContext, parameters: dict[str, object]) -> str:
    return f"fix-target-{context.task_run.flow_run_id}"


@task(
    name="fix_target",
    persist_result=True,
    result_serializer="json",
    cache_policy=CacheKeyFnPolicy(cache_key_fn=_key_of_flow_run),
)
def fix_target(run_folder: str, more: int) -> int:
    """How far to train: `more` iterations from the newest policy version on. A retry of the flow run finds the first count."""
    if not (Path(run_folder) / "store").exists():
        return more
    return max((version.iteration for version in load(Path(run_folder), PolicyVersion)), default=0) + more


@flow(name="train-run", flow_run_name=_run_name)
def train_run(
    preset: TrainingPreset = _USUAL,
    name: Name = None,
    iterations: Iterations = None,
    more: More = None,
    seed: Seed = None,
    overrides: Overrides = [],  # noqa: B006 - the form shows the default; nobody changes it
) -> TrainResult:
    """Train a policy, or go on with a run. Retry a failed or crashed flow run: it goes on at the first stage that is missing."""
    if iterations is not None and more is not None:
        raise ConfigError("Iterations and More iterations: give one of them, not both")
    config = _training(preset, name, seed, overrides, iterations)
    with _operated(config):
        if more is not None:
            config = _training(preset, name, seed, overrides, fix_target(str(config.run_folder), more))
        return train.fn(config)


@flow(name="evaluate-run", flow_run_name=_run_name)
def evaluate_run(
    preset: AnyPreset = "nano-tapo",
    name: Name = None,
    policy_version: Version = None,
    seed: Seed = None,
    overrides: Overrides = [],  # noqa: B006
) -> StageResult:
    """Evaluate a policy version on the held-out queries and the benchmarks. Preset, seed and overrides are those of the run."""
    config = _configuration(preset, name, seed, overrides)
    with _operated(config):
        return evaluate_policy.fn(config, policy_version)


@flow(name="cold-start-run", flow_run_name=_run_name)
def cold_start_run(
    preset: ColdStartPreset = "nano-cold-start",
    name: Name = None,
    seed: Seed = None,
    overrides: Overrides = [],  # noqa: B006
) -> ColdStartResult:
    """Before training: fine-tune a model on its own correct rollouts and constructions."""
    config = _configuration(preset, name, seed, overrides)
    with _operated(config):
        return cold_start.fn(config)
