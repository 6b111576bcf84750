"""The durable record of a study: three small Parquet files with all that its tables and figures are made of.

| file | a row is |
|---|---|
| runs | a run: family, policy, variant, seed, how many iterations, digests of its settings and configuration, minutes |
| problems | a held-out problem after an iteration of a run: samples, correct, reflecting, correct and reflecting |
| curves | an iteration of a run: tokens generated so far, and the curves of Figure 3 |

The runs' stores are too large to keep beside the code. The record is merged run by run, so a study may be made on several
machines, and a part of it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet

from tapo_core.errors import DataError
from tapo_core.files import publish_folder
from tapo_core.study.measure import CURVES, Measured, Row
from tapo_core.text import one_line

_TEXT, _INT, _FLOAT = pyarrow.string(), pyarrow.int64(), pyarrow.float64()

SCHEMAS = {
    "runs": pyarrow.schema(
        [
            *((name, _TEXT) for name in ("run", "family", "policy", "variant")),
            *((name, _INT) for name in ("seed", "iterations")),
            *((name, _TEXT) for name in ("settings_digest", "config_digest", "tapo_version")),
            ("minutes", _FLOAT),
        ]
    ),
    "problems": pyarrow.schema(
        [
            *(("run", _TEXT), ("iteration", _INT), ("problem", _TEXT)),
            *((name, _INT) for name in ("n", "n_correct", "n_reflecting", "n_correct_reflecting")),
        ]
    ),
    "curves": pyarrow.schema(
        [("run", _TEXT), ("iteration", _INT), ("generated_tokens", _INT), *((name, _FLOAT) for name in CURVES)]
    ),
}


@dataclass(frozen=True)
class Record:
    """The three tables. Rows are ordered by run, iteration and problem."""

    runs: pandas.DataFrame
    problems: pandas.DataFrame
    curves: pandas.DataFrame

    def only(self, runs: set[str]) -> "Record":
        """The part about some runs."""
        return Record(*(frame[frame["run"].isin(list(runs))] for frame in (self.runs, self.problems, self.curves)))


def _record(runs: Sequence[Row], problems: Sequence[Row], curves: Sequence[Row]) -> Record:
    rows = {"runs": runs, "problems": problems, "curves": curves}
    frames = []
    for name, schema in SCHEMAS.items():
        frame = pyarrow.Table.from_pylist(list(rows[name]), schema=schema).to_pandas()
        keys = [key for key in ("run", "iteration", "problem") if key in frame.columns]
        frames.append(frame.sort_values(keys, ignore_index=True))
    return Record(*frames)


def read_record(folder: Path) -> Record:
    """The record in a folder; an empty one if there is none.

    Raises:
        DataError: a file of it is missing, damaged, or has other columns.
    """
    if not folder.exists():
        return _record([], [], [])
    frames = []
    for name, schema in SCHEMAS.items():
        file = folder / f"{name}.parquet"
        try:
            table = pyarrow.parquet.read_table(file)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(
                f"{file}: cannot be read ({one_line(error)}); restore {folder}, or delete it and measure the runs again"
            ) from error
        if not table.schema.equals(schema):
            raise DataError(
                f"{file}: columns {', '.join(table.column_names)} are not those of this version of TAPO "
                f"({', '.join(schema.names)}); delete {folder} and measure the runs again"
            )
        frames.append(table.to_pandas())
    return Record(*frames)


def merged(record: Record, measured: Sequence[Measured]) -> tuple[Record, list[str]]:
    """A record with the runs that were measured, and a line about each that took the place of one with other settings.

    Of one run with the same settings the longer one stays: it may have been trained further elsewhere.
    """
    before = {row["run"]: row for row in record.runs.to_dict("records")}
    taken, notes = [], []
    for new in measured:
        name = new.run["run"]
        old = before.get(name)
        if old is not None and old["settings_digest"] != new.run["settings_digest"]:
            notes.append(f"{name}: replaces a run with other settings in the record")
        elif old is not None and old["iterations"] > new.run["iterations"]:
            continue
        taken.append(new)
    kept = record.only(set(before) - {new.run["run"] for new in taken})
    frames = (kept.runs, kept.problems, kept.curves)
    runs, problems, curves = ([_plain(row) for row in frame.to_dict("records")] for frame in frames)
    runs += [new.run for new in taken]
    problems += [row for new in taken for row in new.problems]
    curves += [row for new in taken for row in new.curves]
    return _record(runs, problems, curves), notes


def _plain(row: Row) -> Row:
    """A row with None where pandas has NaN."""
    return {name: None if value != value else value for name, value in row.items()}


def write_record(folder: Path, record: Record) -> None:
    """Replace the record in a folder, all of it or nothing."""
    with publish_folder(folder) as made:
        for name, schema in SCHEMAS.items():
            table = pyarrow.Table.from_pandas(getattr(record, name), schema=schema, preserve_index=False)
            table = table.replace_schema_metadata(None)
            pyarrow.parquet.write_table(table, made / f"{name}.parquet", compression="zstd")
