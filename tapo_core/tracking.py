"""The store's curves as TensorBoard events. The store stays the source: files can be deleted and written again."""

import importlib.util
from pathlib import Path

import pandas

from tapo_core.config_operations import TrackingConfig
from tapo_core.errors import ConfigError
from tapo_core.store import query

_CURVES = "SELECT * EXCLUDE (run_id, iteration) FROM training_curves WHERE iteration = {}"
_EVALUATIONS = "SELECT dataset, metric, value FROM newest_evaluation WHERE iteration = {}"


def check_tracking(config: TrackingConfig) -> None:
    """Raises ConfigError if what is asked for is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "tracking.tensorboard = true: the package tensorboard is not installed; install it, or set false"
        )


def write_tensorboard(run_folder: Path, iteration: int) -> Path:
    """Write one iteration's numbers as scalars, step = iteration, in place of what was written for it before.

    Names: ``curves/<column of training_curves>``, ``evaluation/<data set>/<metric>``. Unknown values are left out.
    """
    # Imported here: it imports torch, and only runs that ask for it have the package.
    from torch.utils.tensorboard import SummaryWriter

    folder, suffix = run_folder / "tensorboard", f".iteration-{iteration:06d}"
    for earlier in folder.glob(f"*{suffix}"):
        earlier.unlink()
    curves = query(run_folder, _CURVES.format(int(iteration)))
    evaluations = query(run_folder, _EVALUATIONS.format(int(iteration)))
    scalars = {f"curves/{name}": value for row in curves.to_dict("records") for name, value in row.items()}
    scalars |= {f"evaluation/{row.dataset}/{row.metric}": row.value for row in evaluations.itertuples()}
    with SummaryWriter(str(folder), filename_suffix=suffix) as writer:
        for name, value in scalars.items():
            if not pandas.isna(value):
                writer.add_scalar(name, float(value), iteration)
    return folder
