"""A lake of several runs, with its catalog in a DuckDB file. (test_lake_postgres has it in Postgres, with many writers.)"""

import contextlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet
import pytest
from many_runs import build_run, commit_of_run, run_id_of
from small_run import RUN_ID, Stage, many_rows, stages

from tapo_core.assets import Assets
from tapo_core.catalog import catalog_problem
from tapo_core.config_file import parse_config
from tapo_core.errors import ConfigError, IntegrityError, TransientError, UserError
from tapo_core.ids import tree_digest
from tapo_core.session import Session
from tapo_core.store import open_reader, query, verified_commits
from tapo_core.store.lake import add_run, extension_files, open_catalog
from tapo_core.store.lake_reader import open_lake, query_lake
from tapo_core.store.publish import TABLES_BY_NAME, published_file
from tapo_core.store.reader import ask

if duckdb.__version__.startswith("2."):
    pytest.skip("PyPI has the packages of DuckLake for DuckDB 1.5 only", allow_module_level=True)

NAMES = ("one", "two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two runs on the same query, and the runs."""
    folder = tmp_path_factory.mktemp("lake")
    for name in NAMES:
        assert add_run(str(folder / "lake.duckdb"), build_run(folder / name, name)) == 7
    return folder


@pytest.fixture
def catalog(folder: Path) -> str:
    return str(folder / "lake.duckdb")


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """What a person's SQL runs on."""
    with contextlib.closing(open_lake(str(folder / "lake.duckdb"))) as connection:
        yield connection


def _count(catalog: str, table: str) -> int:
    return int(query_lake(catalog, f"SELECT count(*) AS n FROM {table}")["n"][0])


@pytest.mark.parametrize(
    ("catalog", "says"),
    [
        ("postgres:dbname=tapo password=x", "pgpass"),
        ("postgres:dbname=tapo PASSWORD = 'x y'", "pgpass"),
        ("postgres:postgresql://tapo:x@host/tapo", "no URI"),
        ("sqlite:lake.sqlite", "or the path of a DuckDB file"),
        ("postgres:", "not named"),
        ("", "not named"),
    ],
)
def test_a_catalog_that_is_none_or_holds_a_password_is_refused(tmp_path: Path, catalog: str, says: str) -> None:
    for use in (lambda: add_run(catalog, tmp_path), lambda: query_lake(catalog, "SELECT 1")):
        with pytest.raises(UserError, match=rf"^lake: .*{says}[^\n]*$"):
            use()
    with pytest.raises(ConfigError, match=rf"run\.toml: store\.lake: .*{says}") as told:
        parse_config({"run": {"name": "a"}, "store": {"lake": catalog}}, "run.toml")
    assert "x@host" not in str(told.value)
    assert "=x" not in str(told.value)


def test_good_catalogs() -> None:
    for catalog in ("postgres:dbname=tapo host=127.0.0.1 passfile=/etc/pass", "/shared/lake.duckdb", "lake.duckdb"):
        assert catalog_problem(catalog) is None


def test_the_lake_is_not_part_of_what_a_run_is() -> None:
    plain = parse_config({"run": {"name": "a"}}, "")
    assert parse_config({"run": {"name": "a"}, "store": {"lake": "lake.duckdb"}}, "").digest == plain.digest


@pytest.mark.parametrize(
    ("catalog", "packages"),
    [
        ("lake.duckdb", ["duckdb-extension-ducklake"]),
        ("postgres:dbname=tapo", ["duckdb-extension-ducklake", "duckdb-extension-postgres-scanner"]),
    ],
)
def test_packages_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, catalog: str, packages: list[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in _EXTENSIONS else find(name, *rest)
    )
    wanted = " ".join(f"{package}=={duckdb.__version__}" for package in packages)
    with pytest.raises(UserError, match=rf"not installed \(extra \"lake\"\): pip install --no-deps {wanted}$"):
        add_run(catalog, tmp_path)


_EXTENSIONS = ("duckdb_extension_ducklake", "duckdb_extension_postgres_scanner")


def test_every_table_and_view_is_for_each_run_what_it_is_on_the_run(folder: Path, catalog: str) -> None:
    def count(connection: duckdb.DuckDBPyConnection, name: str) -> int:
        found = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
        return int(found[0]) if found else 0

    with contextlib.closing(open_lake(catalog)) as lake:
        lists = "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal AND NOT temporary"
        names = {name for (name,) in lake.execute(lists).fetchall()}
        with_rows, of_runs = 0, dict.fromkeys(names, 0)
        for run in NAMES:
            with contextlib.closing(open_reader(folder / run)) as store:
                assert names == {name for (name,) in store.execute(lists).fetchall()}
                for name in names:
                    of_runs[name] += count(store, name)
                    columns = store.execute(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall()
                    assert lake.execute(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall() == columns
                    if "run_id" in dict(columns):
                        mine = store.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall()
                        of_run = f"SELECT * FROM {name} WHERE run_id = '{run_id_of(run)}' ORDER BY ALL"
                        assert lake.execute(of_run).fetchall() == mine, name
                        with_rows += bool(mine)
        assert with_rows > 2 * 25, "of some forty tables and views, few have no rows in the small run"
        assert {name: count(lake, name) for name in names} == of_runs


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '{folder}/one/store/ledger.jsonl'",
        "SELECT * FROM parquet_scan('{folder}/one/store/published/run/*/*.parquet')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/lake.duckdb' AS other",
        "ATTACH 'ducklake:{folder}/lake.duckdb' AS other",
        "DELETE FROM rollout",
        "DROP VIEW rollout",
        "LOAD ducklake",
        "CALL ducklake_cleanup_old_files('lake', cleanup_all => true)",
        "SELECT * FROM ducklake_expire_snapshots('lake', older_than => now())",
        "SELECT * FROM postgres_query('lake', 'SELECT 1')",
        "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 'ducklake_snapshot')",
        "SET enable_external_access = true",
    ],
)
def test_sql_on_a_lake_reaches_nothing_else(folder: Path, locked: duckdb.DuckDBPyConnection, sql: str) -> None:
    before = tree_digest(folder)
    with pytest.raises(UserError, match=r"^SQL[^\n]*$"):
        ask(locked, sql.format(folder=folder), limit_seconds=30, max_rows=100)
    assert tree_digest(folder) == before


def test_sql_on_a_lake_is_limited(catalog: str) -> None:
    with pytest.raises(UserError, match="more than 100 rows"):
        query_lake(catalog, "SELECT * FROM range(1000)", max_rows=100)
    endless = "WITH RECURSIVE t (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t"
    with pytest.raises(UserError, match=r"stopped after 0\.3 s"):
        query_lake(catalog, endless, limit_seconds=0.3)


def test_adding_again_adds_what_is_new(tmp_path: Path) -> None:
    catalog, run = str(tmp_path / "lake.duckdb"), build_run(tmp_path / "run", "one", 2)
    assert [add_run(catalog, run), add_run(catalog, run)] == [2, 0]
    commit_of_run(run, "one", stages()[2])
    commit_of_run(run, "one", Stage(2, "again", stages()[1].records))  # every row is there already: files without rows
    commit_of_run(run, "one", Stage(3, "many", many_rows(3, 5)))
    assert [add_run(catalog, run), add_run(catalog, run)] == [3, 0]
    assert (_count(catalog, "stage_commit"), _count(catalog, "rollout")) == (5, 9)


def test_there_is_no_lake_and_no_run(tmp_path: Path) -> None:
    catalog = str(tmp_path / "lake.duckdb")
    with pytest.raises(UserError, match="holds no lake: `tapo lake add` makes one"):
        query_lake(catalog, "SELECT 1")
    with pytest.raises(UserError, match="no run in"):
        add_run(catalog, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TransientError, match=r"^lake .*nowhere/lake\.duckdb: IO Error"):
        add_run(str(tmp_path / "nowhere" / "lake.duckdb"), build_run(tmp_path / "run", "one", 1))


def test_a_run_stays_where_it_is_and_what_it_is(tmp_path: Path) -> None:
    catalog, run = str(tmp_path / "lake.duckdb"), build_run(tmp_path / "run", "one", 2)
    add_run(catalog, run)
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(IntegrityError, match=rf"has run {run_id_of('one')} in {run}, not in {tmp_path / 'copy'}"):
        add_run(catalog, tmp_path / "copy")
    shutil.rmtree(run)
    build_run(run, "one", 1)
    commit_of_run(run, "one", Stage(1, "another", many_rows(1, 1)))
    with pytest.raises(IntegrityError, match="commit 2 is not the one that the lake has"):
        add_run(catalog, run)
    assert _count(catalog, "stage_commit") == 2


def test_a_commit_whose_file_is_gone_is_not_added_in_part(tmp_path: Path) -> None:
    catalog, run = str(tmp_path / "lake.duckdb"), build_run(tmp_path / "run", "one", 2)
    commit = verified_commits(run)[1]
    file = published_file(run, commit, sorted(commit.row_counts)[-1])
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(IntegrityError, match=rf"{file} cannot be read.*audit verify"):
        add_run(catalog, run)
    assert (_count(catalog, "stage_commit"), _count(catalog, "rollout")) == (1, 0)
    file.write_bytes(content)
    assert add_run(catalog, run) == 1
    file.unlink()
    name = file.parents[1].name
    with pytest.raises(IntegrityError, match=rf"a run's file cannot be read: .*{file.name}"):
        query_lake(catalog, f"SELECT * FROM {name}")


def test_a_run_that_is_gone_hides_only_itself(tmp_path: Path) -> None:
    catalog = str(tmp_path / "lake.duckdb")
    for name in NAMES:
        add_run(catalog, build_run(tmp_path / name, name))
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(IntegrityError, match=f"cannot be read: .*{tmp_path}/one/.*Is the run's folder where it was"):
        query_lake(catalog, "SELECT * FROM trajectory")
    for name in ("rollout", "trajectory", "why_in_batch", "training_curves"):
        assert len(query_lake(catalog, f"SELECT * FROM {name} WHERE run_id = '{run_id_of('two')}'")) > 0


def test_files_from_before_a_migration_read_as_null(tmp_path: Path) -> None:
    catalog, run = str(tmp_path / "lake.duckdb"), build_run(tmp_path / "run", "one")
    (file,) = (run / "store" / "published" / "error_location").rglob("*.parquet")
    rows = pyarrow.parquet.read_table(file, partitioning=None)
    pyarrow.parquet.write_table(rows.drop_columns(["agreement", "votes"]), file)
    add_run(catalog, run)
    add_run(catalog, build_run(tmp_path / "new", "two"))
    found = query_lake(catalog, "SELECT evidence, agreement FROM error_location ORDER BY agreement NULLS FIRST")
    assert found["evidence"].to_list() == ["7 + 12 = 18"] * 2
    assert found["agreement"].isna().to_list() == [True, False]


def test_a_lake_of_an_older_version_gets_new_columns_and_one_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    catalog = str(tmp_path / "lake.duckdb")
    add_run(catalog, build_run(tmp_path / "one", "one"))
    with open_catalog(catalog, for_writing=True) as lake:
        lake.execute("ALTER TABLE error_location DROP COLUMN votes")
        lake.execute("DROP TABLE query_overlap")
    add_run(catalog, build_run(tmp_path / "two", "two"))
    with open_catalog(catalog, for_writing=False) as lake:
        votes = "SELECT count(votes) FROM error_location"
        assert lake.execute(votes).fetchone() == (1,), "the new run's; the column is another one now"
        assert lake.execute("SELECT count(*) FROM query_overlap").fetchone() == (0,)
    with open_catalog(catalog, for_writing=True) as lake:
        lake.execute("UPDATE stage_commit SET migration = 999")
    with pytest.raises(IntegrityError, match="newer version of TAPO"):
        query_lake(catalog, "SELECT 1")


def test_a_lake_that_others_wrote_to_is_named(tmp_path: Path) -> None:
    catalog, run = str(tmp_path / "lake.duckdb"), build_run(tmp_path / "run", "one")
    add_run(catalog, run)
    (file,) = (run / "store" / "published" / "query").rglob("*.parquet")
    with open_catalog(catalog, for_writing=True) as lake:
        lake.execute(f"CALL ducklake_add_data_files('lake', 'query', '{file}', hive_partitioning => false)")
    with pytest.raises(IntegrityError, match="its files are not those of its commits"):
        query_lake(catalog, "SELECT 1")


def test_ducklake_itself_reads_the_lake_and_cannot_rewrite_it(
    folder: Path, catalog: str, locked: duckdb.DuckDBPyConnection
) -> None:
    with open_catalog(catalog, for_writing=False) as lake:
        counts = " UNION ALL ".join(
            f"SELECT '{name}', count(*) FROM {name}" for name in [*TABLES_BY_NAME, "stage_commit"]
        )
        assert set(lake.execute(counts).fetchall()) == set(locked.execute(counts).fetchall())
        (found_id,) = lake.execute("SELECT DISTINCT query_id FROM query").fetchall()[0]
        assert isinstance(found_id, str)
    before = tree_digest(folder / "one"), tree_digest(folder / "two")
    with contextlib.closing(duckdb.connect()) as lake:
        (extension,) = extension_files(catalog)
        lake.execute(f"LOAD '{extension}'")
        lake.execute(f"ATTACH 'ducklake:{catalog}' AS lake")
        for rewriting in (
            "CALL ducklake_merge_adjacent_files('lake')",
            "CALL ducklake_flush_inlined_data('lake')",
            "CHECKPOINT lake",
        ):
            with pytest.raises(duckdb.IOException, match="/dev/null/lake"):
                lake.execute(rewriting)
    assert before == (tree_digest(folder / "one"), tree_digest(folder / "two"))
    assert _count(catalog, "rollout") == 10


def test_a_session_adds_its_commits_and_goes_on_without_the_lake(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = tmp_path / "later" / "lake.duckdb"
    settings = {"run": {"name": "small", "output_dir": str(tmp_path)}, "store": {"lake": str(catalog)}}
    session = Session(parse_config(settings, ""), Assets(tmp_path, train="", held_out=""))
    session.run_id = RUN_ID
    first, second, third = stages()[:3]
    with caplog.at_level(logging.WARNING):
        session.commit(first.stage, first.iteration, "0", {}, first.records)
        session.commit(second.stage, second.iteration, "1", {}, second.records)
    notes = [record.getMessage() for record in caplog.records]
    assert len(notes) == 2
    command = f"tapo lake add --lake {catalog} --run {tmp_path / 'small'}"
    assert all(note.startswith("not in the lake yet: ") and note.endswith(command) for note in notes)
    assert all("\n" not in note for note in notes)
    assert len(verified_commits(tmp_path / "small")) == 2
    catalog.parent.mkdir()
    session.commit(third.stage, third.iteration, "2", {}, third.records)
    assert len(caplog.records) == 2
    session.close()
    stages_there = query_lake(str(catalog), "SELECT stage FROM stage_commit ORDER BY seq")["stage"].to_list()
    assert stages_there == [first.stage, second.stage, third.stage]
    asked = "SELECT rollout_id, text FROM rollout ORDER BY 1"
    assert query_lake(str(catalog), asked).equals(query(tmp_path / "small", asked))
    assert json.loads(query_lake(str(catalog), "SELECT row_counts FROM stage_commit")["row_counts"][0])["query"] == 1
