"""Where the initial policy and the queries of a run are: paths as given, or the built-in nano world."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapo_core.config import NANO, TapoConfig


@dataclass(frozen=True, slots=True)
class Assets:
    """Paths of the initial checkpoint and of the JSONL files of queries."""

    model: Path
    train: Path
    held_out: Path


def cache_root() -> Path:
    """Folder of what is expensive to make and safe to delete: $TAPO_CACHE, or ~/.cache/tapo."""
    return Path(os.environ.get("TAPO_CACHE") or Path.home() / ".cache" / "tapo")


def resolve_assets(config: TapoConfig, progress: Callable[[str, float], None] | None = None) -> Assets:
    """Find, or for the nano world make, what the run starts from.

    `progress` hears what is being made and the share that is done (0 to 1).

    Raises:
        UserError: the cache folder cannot be written to.
    """
    wanted = (config.model.path, config.data.train, config.data.held_out)
    if NANO not in wanted:
        return Assets(*(Path(path) for path in wanted))
    from tapo_core.nano.prepare import prepare

    nano = prepare(config.nano, cache_root() / "nano", progress)
    made = (nano.model_path, nano.train_path, nano.held_out_path)
    return Assets(*(there if path == NANO else Path(path) for path, there in zip(wanted, made, strict=True)))
