"""Build the built-in model and its problems once, and keep them in a cache.

What is built depends on nothing but the configuration, the version of this package's recipe and the construction prompt; the
digest of those three names the folder in the cache. A folder is built under a temporary name and published by one rename, so
a folder with the right name is whole; a lock keeps two processes from building the same thing twice.
"""

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.files import fsync_tree, make_folder
from tapo_core.ids import digest, sha256_text, tree_digest
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.examples import task_templates
from tapo_core.nano.families import generate_problems, write_queries

#: Raise it whenever the same configuration would give other weights or problems.
RECIPE_VERSION = 5

_MODEL, _TRAIN, _HELD_OUT, _METADATA = "model", "train.jsonl", "held_out.jsonl", "metadata.json"

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class NanoAssets:
    """Where the built-in model and problems lie."""

    model_path: Path  #: Hugging Face folder: safetensors, config, tokenizer with chat template
    train_path: Path  #: JSON lines: id, problem, answer, family, level
    held_out_path: Path  #: the same columns; shares no problem with the training file
    digest: str  #: names the cache folder
    metrics: Mapping[str, float]  #: "final_loss" (nats a token), "seconds" (of training), "n_parameters"


def assets_digest(config: NanoConfig) -> str:
    """The digest under which `prepare` caches a configuration."""
    return digest(
        [
            RECIPE_VERSION,
            config.model_dump(mode="json"),
            [(task, template.sha256) for task, template in task_templates().items()],
        ]
    )


def prepare(config: NanoConfig, cache_root: Path, progress: Progress | None = None) -> NanoAssets:
    """The assets of a configuration, from the cache or built now (about three minutes on two cores).

    Args:
        cache_root: made if missing; holds one folder a configuration.
        progress: called with (stage, done share in 0..1) while building; never on a cache hit.

    Raises:
        ConfigError: the levels have too few different problems.
        UserError: the cache cannot be written to.
    """
    name = assets_digest(config)
    folder = cache_root / name
    assets = _load(folder)
    if assets is not None:
        return assets
    make_folder(cache_root, "set TAPO_CACHE to a folder that can be written to")
    with _locked(cache_root / f"{name}.lock"):
        assets = _load(folder)  # another process may have built it while this one waited
        if assets is not None:
            return assets
        building = Path(tempfile.mkdtemp(prefix=f".building-{name[:12]}-", dir=cache_root))
        try:
            _build(config, name, building, progress)
            if folder.exists():  # damaged, or `_load` would have taken it
                shutil.rmtree(folder)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    assets = _load(folder)
    if assets is None:
        raise OSError(
            f"{folder} was built but does not read back: is the disk full or the folder shared with another version?"
        )
    return assets


def is_prepared(config: NanoConfig, cache_root: Path) -> bool:
    """Whether the cache has the assets of a configuration."""
    return _load(cache_root / assets_digest(config)) is not None


def write_problems(config: NanoConfig, folder: Path) -> tuple[Path, Path]:
    """Write the training and the held-out queries, and no model, into a folder; takes well under a second.

    Raises:
        ConfigError: see `families.generate_problems`.
    """
    train, held_out = folder / _TRAIN, folder / _HELD_OUT
    write_queries(generate_problems(config.mix, config.n_train, config.seed, "train"), train)
    write_queries(generate_problems(config.mix, config.n_held_out, config.seed, "held_out"), held_out)
    return train, held_out


def _build(config: NanoConfig, name: str, folder: Path, progress: Progress | None) -> None:
    """Write everything into an empty folder; the metadata goes last."""
    # Problems first: a configuration with too few of them fails before the training, not after it.
    write_problems(config, folder)
    # Imported here: reading a cached model's problems must not need torch.
    from tapo_core.nano.cold_start import train
    from tapo_core.nano.model import count_parameters

    start = time.monotonic()
    result = train(config, progress)
    seconds = time.monotonic() - start
    result.model.save_pretrained(folder / _MODEL)
    result.tokenizer.save_pretrained(folder / _MODEL)
    metadata = {
        "digest": name,
        "recipe_version": RECIPE_VERSION,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
        "content_digest": _content_digest(folder),
        "metrics": {
            "final_loss": result.final_loss,
            "seconds": round(seconds, 3),
            "n_parameters": float(count_parameters(result.model)),
        },
    }
    (folder / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    fsync_tree(folder)  # or the rename could publish a file that a crash still empties


def _load(folder: Path) -> NanoAssets | None:
    """The assets in a folder; None if it is missing, unfinished or damaged."""
    try:
        metadata: dict[str, Any] = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
        whole = metadata["digest"] == folder.name and metadata["content_digest"] == _content_digest(folder)
        metrics = {str(key): float(value) for key, value in metadata["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not whole:
        return None
    return NanoAssets(folder / _MODEL, folder / _TRAIN, folder / _HELD_OUT, folder.name, metrics)


def _content_digest(folder: Path) -> str:
    """Over everything that was built, the metadata apart."""
    queries = [sha256_text((folder / file).read_text(encoding="utf-8")) for file in (_TRAIN, _HELD_OUT)]
    return digest([tree_digest(folder / _MODEL), *queries])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for, and hold, an exclusive lock on a file. The kernel drops it when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
