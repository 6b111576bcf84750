"""Taking a query's text out of a run, so that everything else stays provably what it was.

1. The store is audited, and the rows that have the text are found.
2. A commit of stage ``redact-<n>`` says of each row what it was and what it will be. That is the decision.
3. Each published file with such a row is written anew, one after the other.
4. The database is made anew from the published files; the old one goes, because DuckDB keeps old bytes in free blocks. So do
   the damaged ones that repairs set aside.

A crash between any two of these leaves a redaction that `audit.verify` calls unfinished, and that the next one finishes.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path

import duckdb
import pyarrow
import pyarrow.parquet

from tapo_core.decontamination import words
from tapo_core.errors import IntegrityError, StoreLockedError, UserError
from tapo_core.files import fsync
from tapo_core.ids import canonical_json, deterministic_id, digest
from tapo_core.records import Config, Query, Redaction, Run
from tapo_core.store.audit import verify
from tapo_core.store.commits import StageCommit
from tapo_core.store.connection import LOCK_SECONDS, WRITER_CONFIG, connect, database_path, ledger_path
from tapo_core.store.ledger import read_ledger
from tapo_core.store.publish import (
    TABLES_BY_NAME,
    PublishedFile,
    Publisher,
    published_file,
    published_redactions,
    read_published,
    row_digests,
    table_at,
)
from tapo_core.store.reader import StoreReader
from tapo_core.store.redaction import OUTPUTS, REDACTED, Key, Redactions, redactable, redacted_value
from tapo_core.store.repair import damaged_copies, rebuild
from tapo_core.store.rows import select_list
from tapo_core.store.snapshot import open_reader, snapshot_commits
from tapo_core.store.tables import TABLES, Table
from tapo_core.store.writer import StoreWriter

STAGE = "redact"
#: An output with so many words of the problem in a row quotes it.
QUOTED_WORDS = 8

_SUBJECTS = (
    "(SELECT rollout_id FROM rollout WHERE query_id = $query UNION ALL "
    "SELECT correction_id FROM correction WHERE query_id = $query UNION ALL SELECT CAST($query AS UUID))"
)
#: Which rows of a table are about a query.
ABOUT: Mapping[str, str] = {
    "query": "query_id = $query",
    "query_overlap": "query_id = $query OR other_query_id = $query",
    "rollout": "query_id = $query",
    "rollout_tokens": f"subject_id IN {_SUBJECTS}",
    "verification": f"subject_id IN {_SUBJECTS}",
    "error_location": f"rollout_id IN {_SUBJECTS}",
    "correction": "query_id = $query",
}


@dataclass(frozen=True, slots=True)
class Redacted:
    """What `redact_query` did."""

    commit: StageCommit | None  #: None: everything was redacted already
    rows: dict[str, int] = field(default_factory=dict)  #: redacted rows by table
    quoted: dict[str, int] = field(default_factory=dict)  #: "table.column" -> outputs that still quote the problem
    same_words: tuple[str, ...] = ()  #: other queries of the run with the same words


def redact_query(
    run_folder: Path, query_id: str, reason: str | None, *, outputs: bool = False, lock_seconds: float = LOCK_SECONDS
) -> Redacted:
    """Redact a query's text, and with `outputs` what models wrote about it and its gold answer; finish what was begun.

    Raises:
        UserError: no such query; no reason for what is to be redacted, or one that quotes it; no store there.
        StoreLockedError: the run trains, or something else holds its database.
        IntegrityError: the rows are not those that were written. Nothing was redacted.
        TransientError: the disk is short. The same command goes on.
    """
    snapshot_commits(run_folder)
    try:
        StoreWriter(run_folder, lock_seconds=lock_seconds).migrate()
        finish(run_folder, lock_seconds)
        _check_clean(run_folder, lock_seconds)
        done = _decide(run_folder, query_id, reason, outputs, lock_seconds)
        if done.commit is not None:
            finish(run_folder, lock_seconds)
            # What a stage committed between the look and the decision; from then on none can.
            if _decide(run_folder, query_id, reason, outputs, lock_seconds).commit is not None:
                finish(run_folder, lock_seconds)
    except StoreLockedError as error:
        raise StoreLockedError(
            f"{run_folder} is in use, and nothing is redacted while a run trains. {error}"
        ) from error
    return done


def _check_clean(run_folder: Path, lock_seconds: float) -> None:
    """A redaction says what a row was, and replaces the database: so all must be what was written."""
    faults = verify(run_folder, lock_seconds=lock_seconds, checkpoints=False).faults
    if faults:
        raise IntegrityError(
            f"{len(faults)} things in the store are not as they were written: {faults[0].line}. Nothing was redacted; see "
            f"`tapo audit verify --run {run_folder}`."
        )


def _decide(run_folder: Path, query_id: str, reason: str | None, outputs: bool, lock_seconds: float) -> Redacted:
    """Steps 1 and 2."""
    reader = StoreReader(run_folder)
    queries = {query.query_id: query for query in reader.load(Query)}
    if query_id not in queries:
        raise UserError(f"{run_folder}: no query has the id {query_id}; see SELECT query_id, text, source FROM query")
    query = queries[query_id]
    (run,) = reader.load(Run, run_id=query.run_id)
    (config,) = reader.load(Config, config_digest=run.config_digest)
    reader.release()
    rows = _plan(run_folder, query, outputs)
    if not rows:
        return Redacted(None)
    instruction = json.loads(config.config_json).get("data", {}).get("instruction")
    problem = () if query.text == REDACTED else words(query.problem(instruction))
    if not reason or not reason.strip():
        raise UserError("a redaction needs a reason, which is kept with it: give --reason")
    if _quotes(reason, problem):
        raise UserError("the reason quotes the problem, and would be kept; say it in other words")
    quoted = {} if outputs else _quoted(run_folder, query_id, problem)
    commits = snapshot_commits(run_folder)
    number = 1 + sum(commit.stage.startswith(f"{STAGE}-") for commit in commits)
    counts = dict(Counter(row.table_name for row in rows))
    commit = StoreWriter(run_folder, lock_seconds=lock_seconds).commit_stage(
        run_id=run.run_id,
        iteration=0,
        stage=f"{STAGE}-{number}",
        config_digest=run.config_digest,
        input_digest=digest([commits[-1].chain_digest, query_id, outputs]),
        manifest={"query_id": query_id, "reason": reason, "outputs": outputs, "rows": counts},
        records=[
            Redaction(
                redaction_id=deterministic_id("redaction", run=run.run_id, **asdict(row)),
                run_id=run.run_id,
                query_id=query_id,
                reason=reason,
                **asdict(row),
            )
            for row in rows
        ],
    )
    same = [q.query_id for q in queries.values() if q is not query and words(q.problem(instruction)) == problem]
    return Redacted(commit, counts, quoted, tuple(same))


@dataclass(frozen=True, slots=True)
class _Change:
    """What a redaction does to a row (see `Redaction`)."""

    iteration: int
    table_name: str
    row_key: str
    columns: str
    original_digest: str
    redacted_digest: str


def _plan(run_folder: Path, query: Query, outputs: bool) -> list[_Change]:
    """The rows that a redaction changes, by commit, table and key."""
    wanted = _keys_about(run_folder, query.query_id, redactable(outputs))
    redactions = published_redactions(run_folder, snapshot_commits(run_folder))
    found: list[_Change] = []
    for stored in _files_with(run_folder, wanted):
        columns = redactable(outputs)[stored.table.name]
        rows = _emptied(stored.table, stored.file, dict.fromkeys(stored.keys, columns))
        for index, (key, redacted) in enumerate(row_digests(stored.table, rows)):
            now = stored.file.digests[key]
            if redacted != now:
                before = redactions.of(stored.table.name).get(key)
                changed = [c for c in columns if c in rows.column_names and _differ(stored.file.rows, rows, c, index)]
                found.append(
                    _Change(
                        stored.commit.iteration,
                        stored.table.name,
                        canonical_json(list(key)),
                        canonical_json(changed),
                        now if before is None else before.as_committed(now),
                        redacted,
                    )
                )
    return found


def _differ(one: pyarrow.Table, other: pyarrow.Table, column: str, index: int) -> bool:
    return bool(one.column(column)[index].as_py() != other.column(column)[index].as_py())


def _keys_about(run_folder: Path, query_id: str, tables: Mapping[str, Sequence[str]]) -> dict[str, set[Key]]:
    """The keys of the rows about a query, by table."""
    with contextlib.closing(open_reader(run_folder)) as connection:
        keys: dict[str, set[Key]] = {}
        for name in tables:
            columns = ", ".join(
                f"CAST({column} AS VARCHAR)" if column.endswith("_id") else column
                for column in TABLES_BY_NAME[name].key
            )
            sql = f"SELECT {columns} FROM {name} WHERE {ABOUT[name]}"
            keys[name] = set(connection.execute(sql, {"query": query_id}).fetchall())
    return keys


@dataclass(frozen=True, slots=True)
class _Stored:
    """A published file with rows that are looked for."""

    commit: StageCommit
    level: int  #: the newest migration when it was written
    table: Table  #: as it was then
    file: PublishedFile
    keys: frozenset[Key]


def _files_with(run_folder: Path, wanted: Mapping[str, Set[Key]]) -> Iterator[_Stored]:
    """The published files that have one of these rows, in the order of the commits.

    Raises:
        IntegrityError: a file is missing or cannot be read.
    """
    for entry in read_ledger(ledger_path(run_folder)):
        commit = entry.commit
        if commit is None or entry.migration is None:
            raise UserError(f"{run_folder} is of an older version of TAPO; resume the run")
        for name in sorted(commit.row_counts.keys() & wanted.keys()):
            file = published_file(run_folder, commit, name)
            table = table_at(TABLES_BY_NAME[name], entry.migration)
            try:
                with pyarrow.parquet.ParquetFile(file) as parquet:
                    rows = parquet.read(columns=list(table.key)).to_pydict()
                keys = wanted[name] & set(zip(*(rows[column] for column in table.key), strict=True))
                if keys:
                    yield _Stored(commit, entry.migration, table, read_published(file, table), frozenset(keys))
            except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
                raise IntegrityError(
                    f"{file} cannot be read: {error}; see `tapo audit verify --run {run_folder}`. Nothing was redacted."
                ) from error


def _emptied(table: Table, file: PublishedFile, columns_of: Mapping[Key, Sequence[str]]) -> pyarrow.Table:
    """The rows of a file, with redacted values in some columns of some rows."""
    rows = file.rows
    for place, column in enumerate(table.columns):
        chosen = [column.name in columns_of.get(key, ()) for key in file.digests]
        if any(chosen):
            values = rows.column(column.name).to_pylist()
            values = [
                redacted_value(column, value) if is_chosen else value
                for value, is_chosen in zip(values, chosen, strict=True)
            ]
            kind = rows.schema.field(place).type
            rows = rows.set_column(place, rows.schema.field(place), pyarrow.array(values, type=kind))
    return rows


def finish(run_folder: Path, lock_seconds: float) -> None:
    """Steps 3 and 4, of all redactions that were decided; what is done is not done again.

    Raises:
        IntegrityError, TransientError: see `redact_query`.
    """
    redactions = published_redactions(run_folder, snapshot_commits(run_folder))
    publisher = Publisher(run_folder)
    for stored in _files_with(run_folder, {name: rows.keys() for name, rows in redactions.by_table.items()}):
        found = redactions.of(stored.table.name)
        due = {key: found[key].columns for key in stored.keys if found[key].is_due(stored.file.digests[key])}
        if due:
            rows = _emptied(stored.table, stored.file, due)
            for key, row_digest in row_digests(stored.table, rows):
                if row_digest != (found[key].steps[-1] if key in due else stored.file.digests[key]):
                    raise IntegrityError(
                        f"{stored.table.name} {key}: redacted it is not the row that its redaction says"
                    )
            publisher.replace(stored.commit, stored.table, rows, stored.file.repeated)
    if _is_due_in_database(run_folder, redactions, lock_seconds):
        rebuild(run_folder, lock_seconds=lock_seconds, keep=False)
    if redactions.by_table:
        for copy in damaged_copies(run_folder):
            copy.unlink()
        fsync(database_path(run_folder).parent)


def _is_due_in_database(run_folder: Path, redactions: Redactions, lock_seconds: float) -> bool:
    """Whether the database has a redacted row as it was. (Digests are those of the columns that the row had when written.)"""
    if not redactions.by_table:
        return False
    path = database_path(run_folder)
    wanted = {name: rows.keys() for name, rows in redactions.by_table.items()}
    with contextlib.closing(
        connect(path, read_only=True, config=WRITER_CONFIG, lock_seconds=lock_seconds)
    ) as connection:
        for stored in _files_with(run_folder, wanted):
            rows = _stored_rows(connection, stored)
            found = redactions.of(stored.table.name)
            if any(
                row_digest != found[key].steps[-1]
                for key, row_digest in row_digests(stored.table, rows)
                if key in found
            ):
                return True
    return False


def _stored_rows(connection: duckdb.DuckDBPyConnection, stored: _Stored) -> pyarrow.Table:
    """The rows of the database with the keys of a published file's redacted rows, or some of them."""
    first = stored.table.key[0]
    sql = f"SELECT {select_list(stored.table)} FROM {stored.table.name} WHERE CAST({first} AS VARCHAR) IN (SELECT unnest($keys))"
    return connection.sql(sql, params={"keys": sorted({str(key[0]) for key in stored.keys})}).to_arrow_table()


def check_finished(run_folder: Path) -> None:
    """Let nobody copy a run that still has what was redacted.

    Raises:
        UserError: a redaction was not applied to all published files.
    """
    redactions = published_redactions(run_folder, snapshot_commits(run_folder))
    for stored in _files_with(run_folder, {name: rows.keys() for name, rows in redactions.by_table.items()}):
        for key in stored.keys:
            redacted = redactions.of(stored.table.name)[key]
            if redacted.is_due(stored.file.digests[key]):
                raise UserError(
                    f"{run_folder}: the redaction of query {redacted.query_id} is not finished; run "
                    f"`tapo redact {redacted.query_id} --run {run_folder}` first"
                )


def redacted_since(run_folder: Path, n_commits: int) -> bool:
    """Whether a query was redacted after so many commits: then published files may have changed."""
    return any(TABLES[Redaction].name in commit.row_counts for commit in snapshot_commits(run_folder)[n_commits:])


def _quotes(text: str, problem: Sequence[str]) -> bool:
    """Whether a text has `QUOTED_WORDS` words of a problem in a row, or all of a shorter one."""
    length = min(QUOTED_WORDS, len(problem))
    written = f" {' '.join(words(text))} "
    return length > 0 and any(
        f" {' '.join(problem[start : start + length])} " in written for start in range(len(problem) - length + 1)
    )


def _quoted(run_folder: Path, query_id: str, problem: Sequence[str]) -> dict[str, int]:
    """How many of a query's outputs quote it, by table and column."""
    counts: dict[str, int] = {}
    with contextlib.closing(open_reader(run_folder)) as connection:
        for name, columns in OUTPUTS.items():
            texts = [c.name for c in TABLES_BY_NAME[name].columns if c.name in columns and c.sql_type == "VARCHAR"]
            for column in texts:
                sql = f"SELECT {column} FROM {name} WHERE ({ABOUT[name]}) AND {column} IS NOT NULL"
                found = [text for (text,) in connection.execute(sql, {"query": query_id}).fetchall()]
                count = sum(_quotes(_voted(text) if column == "votes" else text, problem) for text in found)
                if count:
                    counts[f"{name}.{column}"] = count
    return counts


def _voted(votes: str) -> str:
    """All that was sampled for a list of votes."""
    outputs = [text for vote in json.loads(votes) for text in (vote.get("output"), *(vote.get("outputs") or ()))]
    return "\n".join(text for text in outputs if text is not None)
