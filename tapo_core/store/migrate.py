"""Migrations: numbered SQL files, each applied once, in one transaction with the row that says so."""

import contextlib
import datetime
import functools
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from tapo_core.errors import IntegrityError
from tapo_core.ids import sha256_text


@dataclass(frozen=True, slots=True)
class Migration:
    """One SQL file. Example: version 1, name "trajectory_store"."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hex digest of the SQL."""
        return sha256_text(self.sql)


def shipped_migrations() -> list[Migration]:
    """The migrations that come with this version of TAPO, by number."""
    folder = importlib.resources.files("tapo_core.store") / "migrations"
    migrations = []
    for file in folder.iterdir():
        if file.name.endswith(".sql"):
            version, _, name = file.name.removesuffix(".sql").partition("_")
            migrations.append(Migration(int(version), name, file.read_text(encoding="utf-8")))
    return sorted(migrations, key=lambda migration: migration.version)


def pending_migrations(connection: duckdb.DuckDBPyConnection, migrations: Sequence[Migration]) -> list[Migration]:
    """The migrations that a database still lacks.

    Raises:
        IntegrityError: when the database is newer than the migrations, or was made by other texts under these numbers.
    """
    try:
        applied = connection.execute("SELECT version, name, sha256 FROM schema_migration").fetchall()
    except duckdb.CatalogException:  # no such table: the database is new
        applied = []
    by_version = {migration.version: migration for migration in migrations}
    for version, name, sha256 in applied:
        if version not in by_version:
            raise IntegrityError(
                f"the store has migration {version} ({name}), which this version of TAPO does not know: "
                "it was written by a newer version. Update TAPO to open it."
            )
        if by_version[version].sha256 != sha256:
            raise IntegrityError(
                f"migration {version} ({name}) was changed after it was applied to this store. "
                "Restore the file as it was, and put the change into a new migration."
            )
    done = {version for version, _, _ in applied}
    return [migration for migration in migrations if migration.version not in done]


def apply_migrations(connection: duckdb.DuckDBPyConnection, migrations: Sequence[Migration]) -> None:
    """Bring a database up to date. A migration that fails leaves nothing behind.

    Raises:
        IntegrityError: see `pending_migrations`.
        duckdb.Error: for SQL that does not run.
    """
    for migration in pending_migrations(connection, migrations):
        connection.begin()
        try:
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO schema_migration VALUES (?, ?, ?, ?)",
                [migration.version, migration.name, migration.sha256, utc_now()],
            )
        except duckdb.Error:
            connection.rollback()
            raise
        connection.commit()


def level_at(connection: duckdb.DuckDBPyConnection, committed_at: str) -> int:
    """The newest migration that a database had at a time (ISO 8601 with its offset)."""
    when = datetime.datetime.fromisoformat(committed_at).astimezone(datetime.UTC).replace(tzinfo=None)
    # All of the result is fetched, or DuckDB 2.0 refuses the next one.
    ((newest,),) = connection.execute(
        "SELECT max(version) FROM schema_migration WHERE applied_at <= ?", [when]
    ).fetchall()
    return shipped_migrations()[-1].version if newest is None else int(newest)


@functools.cache
def column_counts(level: int) -> dict[str, int]:
    """How many columns each table had after migration `level`. (New columns are always the last.)"""
    with contextlib.closing(duckdb.connect()) as connection:
        apply_migrations(connection, [migration for migration in shipped_migrations() if migration.version <= level])
        return dict(connection.execute("SELECT table_name, count(*) FROM duckdb_columns() GROUP BY ALL").fetchall())


@functools.cache
def view_statements() -> tuple[tuple[str, str], ...]:
    """The statements of all migrations that make views, in their order, each with the name of its view."""
    statements = [s.query for m in shipped_migrations() for s in duckdb.extract_statements(m.sql)]
    return tuple((match[1], text) for text in statements if (match := _view_of(text)))


_view_of = re.compile(r"(?:\s|--[^\n]*\n)*(?:CREATE|DROP|ALTER)\s+(?:OR\s+REPLACE\s+)?VIEW\s+(\w+)").match


def utc_now() -> datetime.datetime:
    """The time as TIMESTAMP columns hold it: UTC without a zone."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
