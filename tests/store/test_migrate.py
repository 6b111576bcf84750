"""Migrations: applied once, by number, in one transaction each; and in step with the record classes."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from small_run import open_file

from tapo_core.errors import IntegrityError, UserError
from tapo_core.store import StoreWriter, open_reader
from tapo_core.store.connection import database_path
from tapo_core.store.migrate import Migration, apply_migrations, pending_migrations, shipped_migrations
from tapo_core.store.tables import TABLES


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with contextlib.closing(duckdb.connect()) as memory:
        yield memory


def _applied(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, str]]:
    return connection.execute("SELECT version, name FROM schema_migration ORDER BY version").fetchall()


def test_fresh_database_gets_every_migration_once(connection: duckdb.DuckDBPyConnection) -> None:
    apply_migrations(connection, shipped_migrations())
    apply_migrations(connection, shipped_migrations())
    assert _applied(connection) == [(migration.version, migration.name) for migration in shipped_migrations()]


def test_numbers_have_no_gap() -> None:
    assert [migration.version for migration in shipped_migrations()] == list(range(1, len(shipped_migrations()) + 1))


def test_a_migration_with_a_smaller_number_may_come_later(connection: duckdb.DuckDBPyConnection) -> None:
    first = shipped_migrations()[0]
    apply_migrations(connection, [first, Migration(7, "seven", "CREATE TABLE seven (i INTEGER)")])
    late = Migration(6, "six", "CREATE TABLE six (i INTEGER)")
    apply_migrations(connection, [first, late, Migration(7, "seven", "CREATE TABLE seven (i INTEGER)")])
    assert [version for version, _ in _applied(connection)] == [1, 6, 7]


def test_changed_migration_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    first, *rest = shipped_migrations()
    apply_migrations(connection, [first])
    changed = dataclasses.replace(first, sql=first.sql + "\n-- harmless?")
    with pytest.raises(IntegrityError, match=r"migration 1 \(trajectory_store\) was changed .* new migration"):
        apply_migrations(connection, [changed, *rest])


def test_newer_database_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    apply_migrations(connection, [*shipped_migrations(), Migration(99, "future", "CREATE TABLE future (i INTEGER)")])
    with pytest.raises(IntegrityError, match=r"migration 99 \(future\).*Update TAPO"):
        apply_migrations(connection, shipped_migrations())


def test_failing_migration_leaves_nothing(connection: duckdb.DuckDBPyConnection) -> None:
    apply_migrations(connection, shipped_migrations())
    versions = [migration.version for migration in shipped_migrations()]
    bad = Migration(max(versions) + 1, "bad", "CREATE TABLE half (i INTEGER); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(duckdb.CatalogException):
        apply_migrations(connection, [*shipped_migrations(), bad])
    assert [version for version, _ in _applied(connection)] == versions
    assert connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").fetchone() == (0,)


def test_opening_a_store_of_an_older_version_to_write_brings_it_up_to_date(tmp_path: Path) -> None:
    database_path(tmp_path).parent.mkdir(parents=True)
    with contextlib.closing(duckdb.connect(database_path(tmp_path))) as old:
        apply_migrations(old, shipped_migrations()[:1])
    StoreWriter(tmp_path).migrate()
    with contextlib.closing(open_file(tmp_path)) as connection:
        assert pending_migrations(connection, shipped_migrations()) == []


def test_a_store_without_commits_is_a_run_that_is_being_made(tmp_path: Path) -> None:
    database_path(tmp_path).parent.mkdir(parents=True)
    with pytest.raises(UserError, match="no run in"):
        open_reader(tmp_path)
    duckdb.connect(database_path(tmp_path)).close()
    with contextlib.closing(open_reader(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM stage_commit").fetchone() == (0,)


def test_tables_have_the_columns_of_the_record_classes(connection: duckdb.DuckDBPyConnection) -> None:
    apply_migrations(connection, shipped_migrations())
    for table in TABLES.values():
        found = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns() "
            "WHERE table_name = ? ORDER BY column_index",
            [table.name],
        ).fetchall()
        assert found == [(column.name, column.sql_type, column.nullable) for column in table.columns], table.name


def test_checks_allow_exactly_the_members_of_the_enums(connection: duckdb.DuckDBPyConnection) -> None:
    apply_migrations(connection, shipped_migrations())
    for table in TABLES.values():
        texts = connection.execute(
            "SELECT constraint_text FROM duckdb_constraints() WHERE table_name = ? AND constraint_type = 'CHECK'",
            [table.name],
        ).fetchall()
        allowed = {}
        for (text,) in texts:
            found = re.search(r"(\w+)\"? IN \((.*?)\)", text)
            if found:
                allowed[found[1]] = set(re.findall(r"'(\w+)'", found[2]))
        assert allowed == {column.name: set(column.enum) for column in table.columns if column.enum}, table.name


def test_the_configuration_of_a_run_of_an_older_version_is_its_first_revision(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    before = [m for m in shipped_migrations() if m.name != "config_revision"]
    run, digest = "11111111-1111-8111-8111-111111000000", "c" * 64
    apply_migrations(connection, before)
    connection.execute("INSERT INTO config VALUES (?, ?)", [digest, '{"run":{"name":"a","seed":3}}'])
    connection.execute("INSERT INTO run VALUES (?, 'a', 3, 'tapo', ?, '1', '{}', '2026-01-01')", [run, digest])
    for iteration in (0, 1):
        row = [iteration + 1, run, iteration, "start", digest, "i", "{}", "{}", "c", None, "d", "2026-01-01"]
        connection.execute(f"INSERT INTO stage_commit VALUES ({', '.join('?' * len(row))})", row)
    apply_migrations(connection, shipped_migrations())
    revisions = connection.execute(
        "SELECT revision, first_iteration, last_iteration, config_digest, changes FROM config_revision"
    ).fetchall()
    assert revisions == [(1, 0, None, digest, None)]
    found = connection.execute("SELECT iteration, revision, config_digest FROM iteration_revision ORDER BY iteration")
    assert found.fetchall() == [(0, 1, digest), (1, 1, digest)]
    assert connection.execute("SELECT key, value FROM config_value ORDER BY key").fetchall() == [
        ("run.name", '"a"'),
        ("run.seed", "3"),
    ]
