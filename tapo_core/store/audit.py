"""Is the store what was written? Everything is computed again, and what does not agree is named, all of it.

Three copies are held against each other: ledger (chained by digests), published files, and database. A commit's content digest
says of each copy of its rows whether it is the one that was written, so a finding can name the copy that was changed. Who
rewrites all three, chain included, is not found out; keep the last chain digest elsewhere (`tapo audit verify` prints it).
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet

from tapo_core.errors import IntegrityError, StoreLockedError
from tapo_core.store.batches import rows_digest
from tapo_core.store.chain import check_ledger, check_stage_commit, commit_title
from tapo_core.store.commits import StageCommit, read_commits
from tapo_core.store.connection import LOCK_SECONDS, connect, database_path, ledger_path, published_folder
from tapo_core.store.contents import check_checkpoints, check_contents
from tapo_core.store.findings import Report
from tapo_core.store.ledger import read_lines
from tapo_core.store.migrate import column_counts, level_at, pending_migrations, shipped_migrations
from tapo_core.store.publish import (
    TABLES_BY_NAME,
    PublishedFile,
    file_metadata,
    published_file,
    published_redactions,
    read_published,
    row_digests,
    table_at,
)
from tapo_core.store.redaction import Key, Progress, Redactions
from tapo_core.store.rows import select_list
from tapo_core.store.snapshot import READER_CONFIG, snapshot_commits
from tapo_core.store.tables import Table
from tapo_core.text import one_line


@dataclass(slots=True)
class _Commit:
    """A commit, what its published files hold, and what the database has of the same rows."""

    commit: StageCommit
    level: int
    whole: bool = True  #: whether the published rows give the content digest
    unreadable: set[str] = field(default_factory=set)  #: tables without a readable file
    again: dict[str, dict[Key, str]] = field(default_factory=dict)  #: handed in, but brought in by an earlier commit
    stored: dict[str, dict[Key, str]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True, slots=True)
class _Difference:
    """A row that the database has otherwise than its published file."""

    table: Table
    key: Key
    commit: _Commit
    columns: tuple[str, ...]


def verify(
    run_folder: Path, *, lock_seconds: float = LOCK_SECONDS, database: Path | None = None, checkpoints: bool = True
) -> Report:
    """Hold ledger, published files, database and checkpoints against each other, and against the digests.

    The database is held while one table is read, never longer. `database`: another file to look at in its place.
    `checkpoints`: whether to read these as well.

    Raises:
        UserError: no store there, or one of an older version.
        StoreLockedError: a writer holds the database for longer than `lock_seconds`.
    """
    with contextlib.suppress(IntegrityError):  # a damaged ledger is a finding
        snapshot_commits(run_folder)
    return _Audit(run_folder, database or database_path(run_folder), lock_seconds, checkpoints).run()


class _Audit:
    def __init__(self, run_folder: Path, database: Path, lock_seconds: float, checkpoints: bool) -> None:
        self._run_folder = run_folder
        self._checkpoints = checkpoints
        self._database = database
        self._lock_seconds = lock_seconds
        self._report = Report()
        self._commits: dict[int, _Commit] = {}
        self._rows: dict[str, dict[Key, tuple[str, int]]] = {name: {} for name in TABLES_BY_NAME}  #: digest, seq
        self._versions: list[dict[str, Any]] = []
        self._differences: list[_Difference] = []
        self._redactions = Redactions()
        self._progress = Progress(self._redactions)

    def run(self) -> Report:
        readable = self._check_commits()
        self._redactions = published_redactions(self._run_folder, [c.commit for c in self._commits.values()])
        self._progress = Progress(self._redactions)
        for commit in self._commits.values():
            self._check_published(commit)
        if readable:
            for table in TABLES_BY_NAME.values():
                self._compare(table)
            self._tell_differences()
        self._progress.tell(self._report, self._run_folder)
        self._report.n_redacted = sum(map(len, self._redactions.by_table.values()))
        if self._checkpoints:
            check_checkpoints(self._report, self._run_folder, self._versions)
        self._report.n_commits = len(self._commits)
        self._report.n_rows = sum(map(len, self._rows.values()))
        if self._commits:
            self._report.chain_digest = self._commits[max(self._commits)].commit.chain_digest
        return self._report

    def _add(self, kind: str, part: str, message: str, **where: Any) -> None:
        if "file" in where:
            where["file"] = where["file"].relative_to(self._run_folder).as_posix()
        self._report.add(kind, part, message, **where)

    # Ledger, chain and stage_commit

    def _check_commits(self) -> bool:
        """Whether the database can be opened."""
        stored: list[StageCommit] | None = None
        levels: dict[int, int] = {}
        with self._held("the database cannot be opened") as connection:
            # While the database is held, no writer is between its files and its line in the ledger.
            lines = read_lines(ledger_path(self._run_folder))
            files = {path for path in published_folder(self._run_folder).rglob("*") if path.is_file()}
            if connection is not None:
                stored = read_commits(connection)
                levels = {commit.seq: level_at(connection, commit.committed_at) for commit in stored[len(lines) :]}
                if pending_migrations(connection, shipped_migrations()):
                    self._add("missing", "database", "it lacks migrations", file=self._database)
        listed = check_ledger(self._report, ledger_path(self._run_folder), lines)
        for seq, (commit, level) in listed.items():
            self._commits[seq] = _Commit(commit, level)
        if stored is not None:
            check_stage_commit(self._report, listed, stored)
            for commit in stored:  # what the ledger does not say
                if commit.seq not in listed:
                    level = levels.get(commit.seq, shipped_migrations()[-1].version)
                    self._commits[commit.seq] = _Commit(commit, level)
        self._commits = dict(sorted(self._commits.items()))
        for path in sorted(
            files - {self._file(c.commit, name) for c in self._commits.values() for name in c.commit.row_counts}
        ):
            self._add("added", "published", "no commit has this file", file=path)
        return stored is not None

    # Published files

    def _file(self, commit: StageCommit, table: str) -> Path:
        return published_file(self._run_folder, commit, table)

    def _check_published(self, checked: _Commit) -> None:
        commit = checked.commit
        read: dict[str, PublishedFile] = {}
        for name, count in commit.row_counts.items():
            file = self._file(commit, name)
            self._report.n_files += 1
            table = TABLES_BY_NAME.get(name)
            if table is None or not file.exists():
                self._add(
                    "missing", "published", f"commit {commit.seq} has {count} rows of {name}, and no file", file=file
                )
                checked.unreadable.add(name)
                continue
            try:
                read[name] = read_published(file, table_at(table, checked.level))
            except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
                self._add("changed", "published", f"cannot be read: {one_line(error)}", table=name, file=file)
                checked.unreadable.add(name)
                continue
            self._check_file(checked, table, read[name], file)
        checked.whole = not checked.unreadable and self._is_content(
            checked, {name: published.digests for name, published in read.items()}
        )
        if not checked.whole and not checked.unreadable:
            self._add("changed", "published", f"the rows of {commit_title(commit)} do not give its digest")
        check_contents(self._report, {name: published.rows for name, published in read.items()}, self._redactions)
        if "policy_version" in read:
            self._versions += read["policy_version"].rows.to_pylist()

    def _is_content(self, checked: _Commit, digests: Mapping[str, Mapping[Key, str]]) -> bool:
        """Whether rows, with those that the stage handed in again, give the commit's content digest."""
        committed = self._redactions.as_committed(digests)
        again = {name: rows | checked.again.get(name, {}) for name, rows in committed.items()}
        return rows_digest(again) == checked.commit.content_digest

    def _check_file(self, checked: _Commit, table: Table, published: PublishedFile, file: Path) -> None:
        """One file against its commit; its rows enter the index."""
        where: dict[str, Any] = {"table": table.name, "file": file}
        commit, digests = checked.commit, published.digests
        checked.again[table.name] = published.repeated
        expected = file_metadata(commit, list(published.repeated.items()))
        wrong = tuple(name for name, value in expected.items() if published.metadata.get(name) != value)
        if wrong:
            self._add("changed", "published", "the file's metadata is about another commit", columns=wrong, **where)
        if len(digests) < published.rows.num_rows:
            self._add("added", "published", "a key is there more than once", **where)
            checked.unreadable.add(table.name)
        rows = self._rows[table.name]
        for key, row_digest in digests.items():
            if key in rows:
                self._add("added", "published", "the row is in two files", **where | {"key": _key_text(table, key)})
            rows[key] = row_digest, commit.seq
        for key, message in self._progress.wrong(table, digests, published.rows):
            self._add("changed", "published", message, **where | {"key": _key_text(table, key)})
        n_rows, count = len(digests.keys() | published.repeated.keys()), commit.row_counts[table.name]
        if n_rows != count:
            kind = "missing" if n_rows < count else "added"
            self._add(kind, "published", f"{n_rows} rows, the commit has {count}", **where)

    # Database against published files

    @contextlib.contextmanager
    def _held(self, message: str, **where: Any) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """The database, and no writer beside us; None, with a finding, if it cannot be opened or read."""
        if not self._database.exists():
            self._add("missing", "database", "there is no database", file=self._database)
            yield None
            return
        connection = None
        try:
            config = {**READER_CONFIG, "threads": "1"}
            connection = connect(self._database, read_only=True, config=config, lock_seconds=self._lock_seconds)
        except StoreLockedError:
            raise
        except IntegrityError as error:
            self._add(
                "changed", "database", f"{message}: {one_line(error.__cause__ or error)}", file=self._database, **where
            )
        if connection is None:
            yield None
            return
        try:
            with contextlib.closing(connection):
                yield connection
        except (duckdb.Error, IntegrityError) as error:
            self._add("changed", "database", f"cannot be read: {one_line(error)}", file=self._database, **where)

    def _compare(self, table: Table) -> None:
        """Row by row, by key. What differs is told when all tables were read."""
        rows = self._rows[table.name]
        rest = dict(rows)
        # A table may be younger than some commits, which then have no row of it.
        having = {seq: c.level for seq, c in self._commits.items() if table.name in c.commit.row_counts}
        widths = {seq: column_counts(level)[table.name] for seq, level in having.items()}
        unknown: dict[Key, str] = {}
        later: set[Key] | None = None
        unread = True
        with self._held("cannot be opened", table=table.name) as connection:
            if connection is None:
                return
            reader = connection.sql(f"SELECT {select_list(table)} FROM {table.name}").to_arrow_reader(10_000)
            for batch in reader:
                found = pyarrow.Table.from_batches([batch])
                by_width = {
                    width: row_digests(table.first_columns(width), found)
                    for width in {*widths.values(), len(table.columns)}
                }
                for index, (key, row_digest) in enumerate(by_width[len(table.columns)]):
                    if key in rest:
                        expected, seq = rest.pop(key)
                        row_digest = by_width[widths[seq]][index][1]
                        checked = self._commits[seq]
                        if not checked.whole:
                            checked.stored[table.name][key] = row_digest
                        late = [
                            c.name
                            for c in table.columns[widths[seq] :]
                            if found.column(c.name)[index].as_py() is not None
                        ]
                        explained = self._progress.explains(table.name, key, "the database", row_digest, expected)
                        if late or (row_digest != expected and not explained):
                            row = found.slice(index, 1).to_pylist()[0]
                            columns = tuple(late) or self._columns(table, key, checked, row)
                            self._differences.append(_Difference(table, key, checked, columns))
                        continue
                    later = self._later_keys(table) if later is None else later
                    if key in rows:
                        self._add(
                            "added", "database", "the row is there twice", table=table.name, key=_key_text(table, key)
                        )
                    elif key not in later:
                        unknown[key] = row_digest
            unread = False
        if unread:
            return
        for key, (_, seq) in rest.items():
            if self._commits[seq].commit.row_counts:
                message = f"commit {seq} has this row"
                self._add("missing", "database", message, table=table.name, key=_key_text(table, key))
        self._tell_unknown(table, unknown)

    def _later_keys(self, table: Table) -> set[Key]:
        """Keys of the rows of commits that were made since the audit began."""
        keys: set[Key] = set()
        for line in read_lines(ledger_path(self._run_folder))[max(self._commits, default=0) :]:
            commit = None if isinstance(line, IntegrityError) else line.commit
            if commit is not None and table.name in commit.row_counts:
                keys |= read_published(self._file(commit, table.name), table).digests.keys()
        return keys

    def _tell_unknown(self, table: Table, unknown: dict[Key, str]) -> None:
        """Rows of the database that no published file has: those of a file that cannot be read, or strangers."""
        lost = [c for c in self._commits.values() if table.name in c.unreadable]
        if unknown and len(unknown) <= sum(c.commit.row_counts[table.name] for c in lost):
            if len(lost) == 1:
                lost[0].stored[table.name] |= unknown
            return
        for key in unknown:
            self._add("added", "database", "no commit has this row", table=table.name, key=_key_text(table, key))

    def _columns(self, table: Table, key: Key, checked: _Commit, stored: dict[str, Any]) -> tuple[str, ...]:
        """The columns in which a row of the database differs from its published file."""
        narrow = table_at(table, checked.level)
        published = read_published(self._file(checked.commit, table.name), narrow)
        row = published.rows.slice(list(published.digests).index(key), 1).to_pylist()[0]
        return tuple(name for name in narrow.column_names if repr(row[name]) != repr(stored[name]))

    def _tell_differences(self) -> None:
        """Which copy was changed: the one whose rows do not give the commit's digest."""
        for difference in self._differences:
            checked, table = difference.commit, difference.table
            where: dict[str, Any] = {
                "table": table.name,
                "key": _key_text(table, difference.key),
                "columns": difference.columns,
                "file": self._file(checked.commit, table.name),
            }
            if checked.whole:
                self._add(
                    "changed", "database", "it is not the row that was written; the published file has that", **where
                )
                continue
            if self._is_content(checked, {name: checked.stored[name] for name in checked.commit.row_counts}):
                self._add("changed", "published", "it is not the row that was written; the database has that", **where)
            else:
                self._add(
                    "changed",
                    "published",
                    "it differs from the database, and neither gives the commit's digest",
                    **where,
                )


def _key_text(table: Table, key: Key) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(table.key, key, strict=True))
