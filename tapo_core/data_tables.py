"""Data sets whose columns have names and types before any row is read: Parquet files, and what Hugging Face `datasets` reads.

Nothing that comes with a data set is run: `datasets` 4 and later knows no loading scripts, and no format that holds pickles is
asked for.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.errors import DataError
from tapo_core.text import one_line

_HUB_NAME = re.compile(r"hf:(?P<name>\w[\w.-]*/\w[\w.-]*)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class DataTable:
    """A data set that was opened."""

    columns: list[str]
    rows: Callable[[list[str]], Iterable[dict[str, Any]]]  #: the rows with these columns only


def open_table(location: str, key: str) -> DataTable | None:
    """Open a Parquet file, a folder or a data set of the Hub; None for any other file. `key` is the config key that names it.

    Raises:
        DataError: it is none of these things, has several splits, or cannot be reached.
    """
    if location.startswith("hf:"):
        return _hub(location, key)
    path, split = _local(location)
    if path.is_dir():
        return _folder(path, split, key)
    return _parquet(path, key) if path.suffix == ".parquet" else None


def check_there(location: str, key: str) -> None:
    """See that a data set's file or folder exists, which is quick; what it holds is for the reader to see.

    Raises:
        DataError: nothing is there.
    """
    if not location.startswith("hf:") and not _local(location)[0].exists():
        raise DataError(f"{location}: cannot read the data file ({os.strerror(errno.ENOENT)}); check {key}")


def _local(location: str) -> tuple[Path, str]:
    """A file or folder, and the split that is named after a folder's colon."""
    path = Path(location)
    folder, _, split = location.rpartition(":")
    return (Path(folder), split) if folder and not path.exists() and Path(folder).is_dir() else (path, "")


def _parquet(path: Path, key: str) -> DataTable:
    import pyarrow
    import pyarrow.parquet

    @contextmanager
    def named_failures() -> Iterator[None]:
        try:
            yield
        except pyarrow.ArrowException as error:  # first: one of them is an OSError too
            raise DataError(f"{path}: not a Parquet file, or damaged ({one_line(error)}); check {key}") from error
        except OSError as error:
            raise DataError(f"{path}: cannot read the data file ({error.strerror or error}); check {key}") from error

    def rows(names: list[str]) -> list[dict[str, Any]]:
        with named_failures():
            return list(file.read(names).to_pylist())

    with named_failures():
        file = pyarrow.parquet.ParquetFile(path)
    return DataTable(file.schema_arrow.names, rows)


def _folder(path: Path, split: str, key: str) -> DataTable:
    import datasets

    saved = (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
    datasets.disable_progress_bars()
    try:
        found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path.absolute()))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{path}: datasets cannot read the folder ({_reason(error)}); check {key}") from error
    return _split(found, str(path), split)


def _hub(location: str, key: str) -> DataTable:
    match = _HUB_NAME.fullmatch(location)
    if match is None:
        raise DataError(
            f"{location}: write hf:owner/name, hf:owner/name:split or hf:owner/name/config:split; check {key}"
        )
    if Path(match["name"]).exists():
        raise DataError(
            f"{location}: there is a folder {match['name']} here, which datasets would read instead; "
            f"rename it, or name it without hf: in {key}"
        )
    import datasets

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(match["name"], match["config"])
    except ConnectionError as error:
        raise DataError(
            f"{location}: the Hugging Face Hub cannot be reached ({_reason(error)}) and the data set is not in the cache; "
            "connect (unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE), or save the data set on another machine with "
            f"save_to_disk and name the folder in {key}"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{location}: datasets cannot load it ({_reason(error)}); check {key}") from error
    return _split(
        found, f"hf:{match['name']}" + (f"/{match['config']}" if match["config"] else ""), match["split"] or ""
    )


def _split(found: Any, name: str, split: str) -> DataTable:
    """The named split of a `Dataset` or `DatasetDict`, or the only one."""
    splits: dict[str, Any] = found if isinstance(found, dict) else {"": found}
    if not split and len(splits) == 1:
        (split,) = splits
    if split not in splits:
        there = ", ".join(sorted(splits))
        if not split:
            raise DataError(f"{name}: it has several splits ({there}); say which: {name}:{min(splits)}")
        raise DataError(
            f"{name}: no split {split!r} ({f'there are {there}' if there else 'it has none, leave it out'})"
        )
    dataset = splits[split]
    return DataTable(list(dataset.column_names), dataset.select_columns)


def _reason(error: BaseException) -> str:
    """What went wrong in one line: the first cause says more than the wrapper."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or type(error).__name__
