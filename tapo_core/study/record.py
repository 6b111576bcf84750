"""The durable record of a study: three small Parquet files with all that its tables and figures are made of.

| file | a row is |
|---|---|
| runs | a run: family, policy, variant, seed, how many iterations, digests of its settings and configuration, minutes |
| problems | a held-out problem after an iteration of a run: samples, correct, reflecting, correct and reflecting |
| curves | an iteration of a run: tokens generated so far, and the curves of Figure 3 |

The runs' stores are too large to keep beside the code. The record is merged run by run, so a study may be made on several
machines, and a part of it again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tapo_core.errors import DataError
from tapo_core.files import publish_folder
from tapo_core.text import one_line

Row = dict[str, Any]

#: The curves of the paper's Figure 3, as view `training_curves` names them, and what figures call them.
CURVES = {
    "mean_ots_weight": "OTS weight, mean",
    "loss": "policy-gradient loss",
    "accuracy": "training accuracy",
    "grad_norm": "gradient norm",
    "response_length": "response length (tokens)",
    "policy_kl": "KL from the sampling policy",
}

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


@dataclass(frozen=True, slots=True)
class Measured:
    """One run's rows for the three tables."""

    run: Row
    problems: list[Row]
    curves: list[Row]


@dataclass(frozen=True, slots=True)
class Record:
    """The three tables, as plain rows in the order of run, iteration and problem."""

    runs: list[Row]
    problems: list[Row]
    curves: list[Row]

    def only(self, runs: Collection[str]) -> "Record":
        """The part about some runs."""
        parts = ([row for row in rows if row["run"] in runs] for rows in (self.runs, self.problems, self.curves))
        return Record(*parts)


def _place(row: Row) -> tuple[str, int, str]:
    return row["run"], row.get("iteration", 0), row.get("problem", "")


def read_record(folder: Path) -> Record:
    """The record in a folder; an empty one if there is none.

    Raises:
        DataError: a file of it is missing, damaged, or has other columns.
    """
    if not folder.exists():
        return Record([], [], [])
    tables = []
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
        tables.append(table.to_pylist())
    return Record(*tables)


def merged(record: Record, measured: Sequence[Measured]) -> tuple[Record, list[str]]:
    """A record with the runs that were measured, and a line about each that took the place of one with other settings.

    Of one run with the same settings the longer one stays: it may have been trained further elsewhere.
    """
    before = {row["run"]: row for row in record.runs}
    taken, notes = [], []
    for new in measured:
        name = new.run["run"]
        old = before.get(name)
        if old is not None and old["settings_digest"] != new.run["settings_digest"]:
            notes.append(f"{name}: replaces a run with other settings in the record")
        elif old is not None and old["iterations"] > new.run["iterations"]:
            continue
        taken.append(new)
    kept = record.only(before.keys() - {new.run["run"] for new in taken})
    runs = [*kept.runs, *(new.run for new in taken)]
    problems = [*kept.problems, *(row for new in taken for row in new.problems)]
    curves = [*kept.curves, *(row for new in taken for row in new.curves)]
    return Record(*(sorted(rows, key=_place) for rows in (runs, problems, curves))), notes


def write_record(folder: Path, record: Record) -> None:
    """Replace the record in a folder, all of it or nothing."""
    with publish_folder(folder) as made:
        for name, schema in SCHEMAS.items():
            table = pyarrow.Table.from_pylist(getattr(record, name), schema=schema)
            pyarrow.parquet.write_table(table, made / f"{name}.parquet", compression="zstd")
