"""Data sets whose columns have names and types before any row is read: Parquet files, and what Hugging Face `datasets` reads.

Nothing that comes with a data set is run: `datasets` 4 and later knows no loading scripts, and no format that holds pickles is
asked for.
"""

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.data_formats import HEAD_BYTES, foreign_kind, path_hint
from tapo_core.errors import DataError
from tapo_core.network import check_proxy_for
from tapo_core.text import one_line

_HUB_NAME = re.compile(r"hf:(?P<name>\w[\w.-]*/\w[\w.-]*)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")

#: Endings of the files of a folder that `datasets` reads; it knows them in lower case only.
_ENDINGS = frozenset((".parquet", ".arrow", ".jsonl", ".json", ".csv", ".txt", ".gz", ".bz2", ".xz", ".zst"))


@dataclass(frozen=True, slots=True)
class DataTable:
    """A data set that was opened."""

    columns: list[str]
    rows: Callable[[list[str]], Iterable[dict[str, Any]]]  #: the rows with these columns only
    first_row: Callable[[], dict[str, Any]]  #: with all columns; what tells a person what they hold


def open_table(location: str, key: str) -> DataTable | None:
    """Open a Parquet file, a folder or a data set of the Hub; None for any other file. `key` is the config key that names it.

    Raises:
        DataError: it is none of these things, has several splits, or cannot be reached.
        UserError: it is on the Hub, and the proxy that is set cannot be used.
    """
    if location.startswith("hf:"):
        return _hub(location, key)
    path, split = _local(location)
    if os.path.isdir(path):
        return _folder(path, split, key)
    return _parquet(path, key) if path.suffix.lower() == ".parquet" else None


def check_there(location: str, key: str) -> None:
    """See that a data set's file or folder exists, which is quick; what it holds is for the reader to see.

    Raises:
        DataError: nothing is there.
    """
    if not location.startswith("hf:"):
        path, _ = _local(location)
        if not os.path.isdir(path):
            check_regular(path, key)


def check_regular(path: Path, key: str) -> None:
    """See that a path is a file that can be read twice: a pipe would be empty, or block, the second time.

    Raises:
        DataError: it is something else, or nothing is there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the data file ({error.strerror}){path_hint(path)}; check {key}"
        ) from error
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{path}: a pipe or a device, not a file; write the data to a file, which is read more than once; check {key}"
        )


def _local(location: str) -> tuple[Path, str]:
    """A file or folder, and the split that is named after a folder's colon.

    Raises:
        DataError: it cannot be the name of a file.
    """
    if not location.strip() or "\0" in location or "\n" in location or not _is_unicode(location):
        raise DataError(f"{location!r}: not a path; write the path of a file or a folder, or hf:owner/name")
    # os.path: the methods of Path raise where a name is too long, or a folder on the way may not be searched.
    folder, _, split = location.rpartition(":")
    if not os.path.exists(location) and os.path.isdir(folder):
        return Path(folder), split
    return Path(location), ""


def _is_unicode(location: str) -> bool:
    """Whether the store, which says where a query comes from, can hold a name."""
    return all(not "\ud800" <= character <= "\udfff" for character in location)


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
        except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date beyond the calendar
            raise DataError(f"{path}: a value cannot be read ({one_line(error)}); check {key}") from error

    def rows(names: list[str]) -> list[dict[str, Any]]:
        with named_failures():
            # A name with a dot in it would also read a column inside a column.
            return list(file.read(names).select(names).to_pylist())

    def first_row() -> dict[str, Any]:
        with named_failures():
            batches = [*itertools.islice(file.iter_batches(batch_size=1), 1)]
            return dict(batches[0].to_pylist()[0]) if batches else dict.fromkeys(file.schema_arrow.names)

    check_regular(path, key)
    with named_failures():
        with path.open("rb") as opened:
            kind = foreign_kind(opened.read(HEAD_BYTES), parquet=True)
        if kind is not None:
            raise DataError(f"{path}: {kind}; check {key}")
        file = pyarrow.parquet.ParquetFile(path)
    return DataTable(file.schema_arrow.names, rows, first_row)


def _folder(path: Path, split: str, key: str) -> DataTable:
    import datasets

    saved = (path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()
    if not saved:
        _check_endings(path)
    _quiet()
    try:
        found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path.absolute()))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        lines = next(iter(sorted(path.glob("*.jsonl"))), None)
        hint = "" if lines is None else f"; name a file such as {lines.name} itself, and its bad rows are named"
        raise DataError(f"{path}: datasets cannot read the folder ({_reason(error)}){hint}; check {key}") from error
    return _split(found, str(path), split)


def _check_endings(folder: Path) -> None:
    """See that no file is left out, without a word, because its ending is in capitals.

    Raises:
        DataError: one would be.
    """
    for file in sorted(folder.rglob("*")):
        if any(part.startswith((".", "__")) for part in file.relative_to(folder).parts):
            continue  # which `datasets` leaves out on purpose
        ending = next((s for s in file.suffixes if s.lower() in _ENDINGS and s not in _ENDINGS), None)
        if ending is not None:
            raise DataError(
                f"{file}: `datasets` does not know the ending {ending} in capitals and would leave the file out; rename it "
                f"to {file.name.replace(ending, ending.lower())}"
            )


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

    _quiet()
    if not datasets.config.HF_HUB_OFFLINE:
        check_proxy_for(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
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
    import pyarrow

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

    def first_row() -> dict[str, Any]:
        rows = dataset.with_format("arrow")[:1].to_pylist()  # as stored: pictures are not decoded
        return rows[0] if rows else dict.fromkeys(dataset.column_names)

    def rows(names: list[str]) -> Iterator[dict[str, Any]]:
        try:
            yield from dataset.select_columns(names)
        except (OSError, ValueError, OverflowError, ImportError, pyarrow.ArrowException) as error:
            raise DataError(f"{name}: a value cannot be read ({_reason(error)})") from error

    return DataTable(list(dataset.column_names), rows, first_row)


def _quiet() -> None:
    """What `datasets` logs of an error is in the error that is raised, too."""
    import datasets

    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)


def _reason(error: BaseException) -> str:
    """What went wrong in one line: the first cause says more than the wrapper."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error) or type(error).__name__
