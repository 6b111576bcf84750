"""Queries from JSONL files. Every problem with a row is an error that names file and line; no row is skipped silently."""

import json
from pathlib import Path
from typing import Any

from tapo_core.errors import DataError
from tapo_core.ids import deterministic_id, digest
from tapo_core.records import Query
from tapo_core.verification import check_gold


def load_queries(path: Path, split: str, run_id: str, instruction: str = "") -> list[Query]:
    """Read queries from a JSONL file with the columns problem and answer (strings), and optionally id, family and level.

    Query ids depend on text and gold answer alone, so that the same query in two runs or files has the same id.

    Raises:
        DataError: the file is missing or empty, or a row is malformed, lacks an answer, or repeats an earlier one.
    """
    key = f"data.{split}" if split in ("train", "held_out") else f"evaluation.datasets.{split}"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the data file ({error.strerror}); check {key}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    queries: list[Query] = []
    places: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        query = _query(_row(line, place), place, split, run_id, instruction)
        if query.query_id in places:
            raise DataError(f"{place}: the same problem and answer as {places[query.query_id]}; remove one of them")
        places[query.query_id] = place
        queries.append(query)
    if not queries:
        raise DataError(f"{path}: no queries in it; every line should be a JSON object with problem and answer")
    return queries


def _row(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not valid JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: a {type(row).__name__}, not a JSON object with problem and answer")
    return row


def _query(row: dict[str, Any], place: str, split: str, run_id: str, instruction: str) -> Query:
    for column in ("problem", "answer"):
        if column not in row:
            raise DataError(f"{place}: the column {column!r} is missing (there are {', '.join(sorted(row)) or 'none'})")
        if not isinstance(row[column], str):
            raise DataError(f"{place}: {column} is {type(row[column]).__name__}, not a string; put it in quotes")
    text, gold = row["problem"].strip(), row["answer"].strip()
    if not text:
        raise DataError(f"{place}: the problem is empty")
    check_gold(gold, place)
    family, level = row.get("family"), row.get("level")
    if instruction:
        text = f"{text}\n{instruction}"
    return Query(
        query_id=deterministic_id("query", split=split, text=text, gold=gold),
        run_id=run_id,
        split=split,
        text=text,
        gold=gold,
        family=None if family is None else str(family),
        level=int(level) if isinstance(level, int | float) and float(level).is_integer() else None,
        source=place,
        content_sha256=digest({"text": text, "gold": gold}),
    )
