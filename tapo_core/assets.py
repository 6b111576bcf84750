"""Where the initial policy and the queries of a run are: as named in the configuration, or the built-in nano world."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapo_core.config import NANO, TapoConfig
from tapo_core.data_tables import check_there
from tapo_core.errors import UserError
from tapo_core.files import check_folder


@dataclass(frozen=True, slots=True)
class Assets:
    """Path of the initial checkpoint, and the data sets of queries (see `data.load_queries`)."""

    model: Path
    train: str
    held_out: str


def cache_root() -> Path:
    """Folder of what is expensive to make and safe to delete: $TAPO_CACHE, or ~/.cache/tapo.

    Raises:
        UserError: neither is known.
    """
    try:
        return Path(os.environ.get("TAPO_CACHE") or Path.home() / ".cache" / "tapo")
    except RuntimeError as error:
        raise UserError("this user has no home folder: set HOME, or TAPO_CACHE") from error


def check_cache(config: TapoConfig) -> None:
    """Make sure that the nano world, if a configuration asks for it, is in the cache or can be put there. Takes no time.

    Raises:
        UserError: the cache folder cannot be written to.
    """
    if NANO in (config.model.path, config.data.train, config.data.held_out):
        from tapo_core.nano.prepare import is_prepared

        if not is_prepared(config.nano, cache_root() / "nano"):
            check_folder(cache_root() / "nano", "set TAPO_CACHE to a folder that can be written to")


def resolve_assets(config: TapoConfig, progress: Callable[[str, float], None] | None = None) -> Assets:
    """Find, or for the nano world make, what the run starts from.

    `progress` hears what is being made and the share that is done (0 to 1).

    Raises:
        UserError: the cache folder cannot be written to.
        DataError: a data set that is named besides the nano world is not there.
    """
    model, train, held_out = config.model.path, config.data.train, config.data.held_out
    if NANO in (model, train, held_out):
        from tapo_core.nano.prepare import prepare

        # First: a wrong path would be told after the minutes that the built-in model may take.
        for key, location in (("data.train", train), ("data.held_out", held_out)):
            if location != NANO:
                check_there(location, key)
        nano = prepare(config.nano, cache_root() / "nano", progress)
        model = str(nano.model_path) if model == NANO else model
        train = str(nano.train_path) if train == NANO else train
        held_out = str(nano.held_out_path) if held_out == NANO else held_out
    return Assets(Path(model), train, held_out)
