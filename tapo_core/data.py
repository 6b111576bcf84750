"""Queries from data sets. Every problem with a row is an error that names file and row; no row is skipped silently.

A data set is named by one string (docs/data.md): the path of a Parquet file (.parquet), of any other file, which is read as
JSON lines, or of a folder that Hugging Face `datasets` made or can read; or ``hf:owner/name`` on the Hub. A folder or a Hub
name may end in ``:split``, and must where there are several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tapo_core.config import NANO, ColumnsConfig, SamplerConfig, SourceConfig, TapoConfig
from tapo_core.data_rows import DataRows
from tapo_core.errors import DataError
from tapo_core.ids import deterministic_id, digest
from tapo_core.records import Query
from tapo_core.text import shortened
from tapo_core.verification.base import Verifier

#: The splits whose bad rows can be left out; a benchmark would be made easier.
_SKIPPABLE = ("train", "held_out")

#: Bad rows that an error describes.
_NAMED = 3

#: No tokenizer has tokens of so many characters. To count the tokens of a text of 100 MB would take minutes.
_MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Inputs:
    """All queries that a configuration names, and the bad rows that were left out."""

    queries: list[Query]
    skipped: dict[str, list[str]]  #: split -> what is wrong with each of its bad rows
    read: frozenset[str]  #: ids of all queries that were read, also of those that were left out since


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
        skip = bad.append if config.data.skip_bad_rows and split in _SKIPPABLE else None
        queries += load_queries(source.path, split, run_id, config.data.instruction, source.columns, skip)
        skipped[split] = [str(error) for error in bad]
    return Inputs(queries, skipped, frozenset(query.query_id for query in queries))


def check_lengths(inputs: Inputs, count_tokens: Callable[[str], int], settings: SamplerConfig, skip: bool) -> Inputs:
    """The inputs whose prompts leave room for an answer.

    Longer ones are left out if `skip`, of the training and held-out queries; a benchmark is never made easier. `count_tokens`
    gives the number of tokens of the prompt for a query's text.

    Raises:
        DataError: naming how many are too long, and file and row of the first ones.
    """
    kept: list[Query] = []
    too_long: dict[str, list[str]] = {}
    for query in inputs.queries:
        problem = _too_long(query, count_tokens, settings)
        if problem is None:
            kept.append(query)
        else:
            too_long.setdefault(query.split, []).append(problem)
    for split, bad in too_long.items():
        if not skip or split not in _SKIPPABLE:
            raise refusal(bad, split)
    skipped = {split: [*bad, *too_long.get(split, [])] for split, bad in inputs.skipped.items()}
    return replace(inputs, queries=kept, skipped=skipped)


def _too_long(query: Query, count_tokens: Callable[[str], int], settings: SamplerConfig) -> str | None:
    room = settings.max_model_len - settings.max_new_tokens
    if len(query.text) > _MOST_CHARACTERS * room:
        found = f"the problem has {len(query.text)} characters, which are more tokens"
    else:
        n_tokens = count_tokens(query.text)
        if n_tokens <= room:
            return None
        found = f"the prompt has {n_tokens} tokens, more"
    return (
        f"{query.source}: {found} than the {room} that sampler.max_model_len = {settings.max_model_len} leaves beside "
        f"{settings.max_new_tokens} new tokens; raise it or shorten the row"
    )


def refusal(bad: Sequence[str], split: str) -> DataError:
    """The error of a split's bad rows: how many there are, what is wrong with the first ones, and what to do.

    `bad`: a message for each of them, at least one.
    """
    told = f"{len(bad)} bad rows, the first {min(len(bad), _NAMED)}: {' | '.join(bad[:_NAMED])}" if bad[1:] else bad[0]
    if split not in _SKIPPABLE:
        return DataError(f"{told}; mend the data: a benchmark is read whole or not at all")
    return DataError(f"{told}; mend the data, or set data.skip_bad_rows = true to leave bad rows out")


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
    return replace(inputs, queries=kept, skipped=skipped)


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
    bad row goes to `skip`, and the row is left out; without `skip` an error is raised when all rows have been read.

    Raises:
        DataError: the data set cannot be read, lacks a column, or has no good row; or rows are malformed, lack an answer, or
            repeat an earlier one. It says how many are bad, and names the first ones.
    """
    rows = DataRows(str(location), split, columns or ColumnsConfig())
    queries: list[Query] = []
    places: dict[str, str] = {}
    bad: list[str] = []
    for place, raw in rows.read():
        try:
            content = rows.content(raw, place)
            text = f"{content.problem}\n{instruction}" if instruction else content.problem
            query_id = deterministic_id("query", split=split, text=text, gold=content.answer)
            if query_id in places:
                raise DataError(f"{place}: the same problem and answer as {places[query_id]}; remove one of them")
        except DataError as error:
            bad.append(str(error))
            if skip is not None:
                skip(error)
            continue
        places[query_id] = place
        query = Query(
            query_id=query_id,
            run_id=run_id,
            split=split,
            text=text,
            gold=content.answer,
            family=content.family,
            level=content.level,
            source=place,
            content_sha256=digest({"text": text, "gold": content.answer}),
        )
        queries.append(query)
    if not queries and bad:
        raise DataError(f"{location}: every row is bad; the first one: {bad[0]}")
    if not queries:
        raise DataError(f"{location}: no queries in it; every row needs a problem and an answer")
    if bad and skip is None:
        raise refusal(bad, split)
    return queries
