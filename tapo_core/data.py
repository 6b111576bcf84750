"""Queries from data sets. Every problem with a row is an error that names file and row; no row is skipped silently.

A data set is named by one string (docs/data.md): the path of a Parquet file (.parquet), of any other file, which is read as
JSON lines, or of a folder that Hugging Face `datasets` made or can read; or ``hf:owner/name`` on the Hub. A folder or a Hub
name may end in ``:split``, and must where there are several.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapo_core.config import NANO, ColumnsConfig, SourceConfig, TapoConfig
from tapo_core.data_tables import open_table
from tapo_core.errors import DataError
from tapo_core.ids import deterministic_id, digest
from tapo_core.records import Query
from tapo_core.text import shortened
from tapo_core.verification.base import Verifier


@dataclass(frozen=True, slots=True)
class Inputs:
    """All queries that a configuration names, and the bad rows that were left out."""

    queries: list[Query]
    skipped: dict[str, list[str]]  #: split -> what is wrong with each of its bad rows


def sources(config: TapoConfig, train: str, held_out: str) -> dict[str, SourceConfig]:
    """Where the queries of each split are: train and held_out (given as resolved), then the benchmarks."""
    data = config.data
    own = {
        split: SourceConfig(path=path, columns=ColumnsConfig() if named == NANO else columns)
        for split, named, path, columns in (
            ("train", data.train, train, data.columns),
            ("held_out", data.held_out, held_out, data.held_out_columns or data.columns),
        )
    }
    return own | config.evaluation.datasets


def load_inputs(config: TapoConfig, train: str, held_out: str, run_id: str) -> Inputs:
    """Everything that a configuration names, train first.

    Raises:
        DataError: see `load_queries`.
    """
    queries: list[Query] = []
    skipped: dict[str, list[str]] = {}
    for split, source in sources(config, train, held_out).items():
        bad: list[DataError] = []
        skip = bad.append if config.data.skip_bad_rows and split in ("train", "held_out") else None
        queries += load_queries(source.path, split, run_id, config.data.instruction, source.columns, skip)
        skipped[split] = [str(error) for error in bad]
    return Inputs(queries, skipped)


def check_golds(inputs: Inputs, verifier: Verifier, skip: bool) -> Inputs:
    """The inputs with gold answers that the verifier can hold an answer against: each is judged as if it were an answer.

    Bad ones are left out if `skip`, of the training and held-out queries; a benchmark is never made easier.

    Raises:
        DataError: naming file and row of the first bad one.
    """
    problems = verifier.gold_problems([query.gold for query in inputs.queries])
    kept = []
    skipped = {split: list(errors) for split, errors in inputs.skipped.items()}
    for query, problem in zip(inputs.queries, problems, strict=True):
        if problem is None:
            kept.append(query)
            continue
        error = (
            f"{query.source}: the verifier {verifier.name} cannot hold answers against the answer {shortened(query.gold, 60)!r}: "
            f"{problem}. Mend the row, set data.skip_bad_rows, or choose another verifier.name"
        )
        if not skip or query.split not in ("train", "held_out"):
            raise DataError(error)
        skipped.setdefault(query.split, []).append(error)
    return Inputs(kept, skipped)


def load_queries(
    location: str | Path,
    split: str,
    run_id: str,
    instruction: str = "",
    columns: ColumnsConfig | None = None,
    skip: Callable[[DataError], None] | None = None,
) -> list[Query]:
    """Read queries from a data set with a problem and a gold answer in each row, and optionally family and level.

    Query ids depend on text and gold answer alone, so that the same query in two runs or files has the same id. The error of a
    bad row goes to `skip`, and the row is left out; without `skip` it is raised.

    Raises:
        DataError: the data set cannot be read, lacks a column, or has no good row; or a row is malformed, lacks an answer, or
            repeats an earlier one.
    """
    columns = columns or ColumnsConfig()
    queries: list[Query] = []
    places: dict[str, str] = {}
    first_bad: DataError | None = None
    for place, raw in _rows(str(location), split, columns):
        try:
            query = _query(raw, place, split, run_id, instruction, columns)
            if query.query_id in places:
                raise DataError(f"{place}: the same problem and answer as {places[query.query_id]}; remove one of them")
        except DataError as error:
            if skip is None:
                raise
            skip(error)
            first_bad = first_bad or error
            continue
        places[query.query_id] = place
        queries.append(query)
    if not queries and first_bad:
        raise DataError(f"{location}: every row is bad; the first one: {first_bad}") from first_bad
    if not queries:
        raise DataError(f"{location}: no queries in it; every row needs a problem and an answer")
    return queries


def _rows(location: str, split: str, columns: ColumnsConfig) -> Iterator[tuple[str, str | dict[str, Any]]]:
    """The rows of a data set with their places (location, colon, number from 1): lines of JSON, or rows of typed columns.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    key = f"data.{split}" if split in ("train", "held_out") else f"evaluation.datasets.{split}"
    table = open_table(location, key)
    if table is None:
        return _lines(Path(location), key)
    named = [columns.problem, columns.answer, *(name for name in (columns.family, columns.level) if name is not None)]
    for name in named:
        if name not in table.columns:
            raise DataError(f"{location}: {_missing(name, table.columns)}")
    unnamed = [name for name in ("family", "level") if getattr(columns, name) is None and name in table.columns]
    rows = table.rows(list(dict.fromkeys([*named, *unnamed])))
    return ((f"{location}:{number}", row) for number, row in enumerate(rows, start=1))


def _lines(path: Path, key: str) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the data file ({error.strerror}); check {key}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    return ((f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _missing(column: str, there: Sequence[str]) -> str:
    return f"the column {column!r} is missing (there are {', '.join(sorted(there)) or 'none'}); name it in columns"


def _json_row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands of brackets
        raise DataError(f"{place}: JSON that cannot be read ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: a {type(row).__name__}, not a JSON object with problem and answer")
    return row


def _query(
    raw: str | dict[str, Any], place: str, split: str, run_id: str, instruction: str, columns: ColumnsConfig
) -> Query:
    row = _json_row(raw, place) if isinstance(raw, str) else raw
    text, gold = (
        _text(row, column, what, place, typed=row is raw)
        for column, what in ((columns.problem, "problem"), (columns.answer, "answer"))
    )
    if not text:
        raise DataError(f"{place}: the problem is empty")
    if columns.answer_pattern is not None:
        match = re.search(columns.answer_pattern, gold)
        if match is None:
            raise DataError(f"{place}: answer_pattern finds nothing in the answer, which ends in {gold[-40:]!r}")
        gold = (match[1] or "").strip()
    if not gold.strip("$. "):
        raise DataError(f"{place}: the answer is empty; every row needs a gold answer")
    for name in (columns.family, columns.level):
        if name is not None and name not in row:
            raise DataError(f"{place}: {_missing(name, list(row))}")
    family = row.get(columns.family or "family")
    if instruction:
        text = f"{text}\n{instruction}"
    return Query(
        query_id=deterministic_id("query", split=split, text=text, gold=gold),
        run_id=run_id,
        split=split,
        text=text,
        gold=gold,
        family=None if family is None else str(family),
        level=_level(row.get(columns.level or "level")),
        source=place,
        content_sha256=digest({"text": text, "gold": gold}),
    )


def _text(row: dict[str, Any], column: str, what: str, place: str, typed: bool) -> str:
    """A column's text without white space around it.

    A whole number counts as text where the column's type says that all are whole; a JSON line says so of one row only.
    """
    if column not in row:
        raise DataError(f"{place}: {_missing(column, list(row))}")
    value = row[column]
    if typed and type(value) is int:
        value = str(value)
    if value is None:
        raise DataError(f"{place}: the {what} is empty")
    if not isinstance(value, str):
        hint = "make it a string column" if typed else "put it in quotes"
        raise DataError(f"{place}: {column} is {type(value).__name__}, not a string; {hint}")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{place}: the {what} has half a character in it (a lone surrogate), which cannot be stored")
    return value.strip()


def _level(value: object) -> int | None:
    """A whole number, or the number at the end of a text: "Level 5" is 5, "Level ?" is none."""
    if isinstance(value, str):
        found = re.search(r"\d{1,9}$", value.strip())
        return int(found[0]) if found else None
    return int(value) if isinstance(value, int | float) and float(value).is_integer() else None
