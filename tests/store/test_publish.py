"""Published files and the snapshots that readers take of them: the same as the database, and closed to everything else."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
from small_run import (
    QUERY_ID,
    RUN_ID,
    Stage,
    build_small_run,
    changed,
    commit,
    make_query,
    many_rows,
    open_file,
    stages,
)

from tapo_core.errors import IntegrityError, TransientError, UserError
from tapo_core.ids import deterministic_id
from tapo_core.records import ErrorLocation, Evaluation, Rollout, Verification
from tapo_core.store import StoreWriter, load, open_reader, query, verified_commits, writer
from tapo_core.store.audit import verify
from tapo_core.store.connection import database_path, ledger_path, published_folder
from tapo_core.store.migrate import shipped_migrations
from tapo_core.store.parents import PARENTS, Parent
from tapo_core.store.publish import TABLES_BY_NAME, Publisher, published_file, read_published, table_at
from tapo_core.store.tables import TABLES


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small_run(tmp_path_factory.mktemp("run"))


def _files(run_folder: Path) -> dict[str, bytes]:
    folder = published_folder(run_folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_for_each_table_and_commit(run_folder: Path) -> None:
    assert {name for name in _files(run_folder) if "rollout" in name} == {
        "rollout/iteration=1/00000002-sample.parquet",
        "rollout/iteration=1/00000006-evaluate.parquet",
        "rollout_tokens/iteration=1/00000002-sample.parquet",
        "rollout_tokens/iteration=1/00000004-correct.parquet",
    }
    commits = verified_commits(run_folder)
    assert len(_files(run_folder)) == sum(len(made.row_counts) for made in commits)
    file = pyarrow.parquet.ParquetFile(published_file(run_folder, commits[1], "rollout"))
    keys = file.read().column("rollout_id").to_pylist()
    assert keys == sorted(keys)
    assert len(keys) == 4
    metadata = {name.decode(): value.decode() for name, value in file.schema_arrow.metadata.items()}
    assert (metadata["seq"], metadata["stage"], metadata["content_digest"]) == (
        "2",
        "sample",
        commits[1].content_digest,
    )
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_published_files_are_never_changed(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    before = _files(tmp_path)
    commit(tmp_path, stages()[1])
    commit(tmp_path, stages()[2])
    after = _files(tmp_path)
    assert after.items() > before.items()


def test_snapshot_and_database_answer_alike(run_folder: Path) -> None:
    with contextlib.closing(open_file(run_folder)) as one, contextlib.closing(open_reader(run_folder)) as other:
        sql = "SELECT view_name FROM duckdb_views() WHERE NOT internal UNION SELECT table_name FROM duckdb_tables()"
        names = {name for (name,) in one.execute(sql).fetchall()} - {"schema_migration"}
        assert {"rollout", "stage_commit", "why_in_batch", "training_curves"} < names
        # The small run has one method of error location, no settings, no cold start, no duplicates, no redaction, no origin,
        # no turn and no probe, and its settings were not changed.
        without_rows = {
            *(
                "location_agreement",
                "config_value",
                "cold_start_example",
                "query_overlap",
                "redaction",
                "origin",
                "turn",
                "probe",
                "config_change",
                "changed_key",
                "revision_span",
            )
        }
        for name in names:
            columns = [[row[:2] for row in side.execute(f"DESCRIBE {name}").fetchall()] for side in (one, other)]
            assert columns[0] == columns[1], name
            rows = [sorted(map(repr, side.execute(f"FROM {name}").fetchall())) for side in (one, other)]
            assert rows[0] == rows[1], name
            assert rows[0] or name in without_rows, name


def test_rows_that_were_there_are_published_once(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    new = make_query(deterministic_id("query", n=1))
    made = commit(tmp_path, Stage(2, "again", [*stages()[1].records, make_query(), new]))
    assert made.row_counts == {"query": 2, "rollout": 4, "rollout_tokens": 4}
    table = TABLES_BY_NAME["query"]
    published = read_published(published_file(tmp_path, made, "query"), table)
    assert list(published.digests) == [(new.query_id,)]
    assert list(published.repeated) == [(QUERY_ID,)]
    assert len(load(tmp_path, Rollout)) == 4
    assert verify(tmp_path).faults == []


def test_a_snapshot_stays_as_it_was_and_holds_nobody_up(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    with contextlib.closing(open_reader(tmp_path)) as connection:
        commit(tmp_path, stages()[2])
        assert connection.execute("SELECT max(seq) FROM stage_commit").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM verification").fetchone() == (0,)
    assert len(query(tmp_path, "SELECT * FROM verification")) == 4


def test_a_snapshot_in_a_notebook(run_folder: Path) -> None:
    with contextlib.closing(open_reader(run_folder)) as connection:
        frame = connection.sql("SELECT k, text FROM rollout WHERE kind = 'training' ORDER BY k").df()
    assert frame.k.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_parquet('{other}/rollout/iteration=1/*.parquet')",
        "SELECT * FROM read_parquet('{own}/rollout/iteration=1/00000002-sample.parquet')",
        "COPY rollout TO '{folder}/out.csv'",
        "COPY rollout TO '{own}/rollout/iteration=1/00000002-sample.parquet'",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{database}' AS other (READ_ONLY)",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT * FROM other_run",  # a variable of this test
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "SET python_enable_replacements = true",
        "RESET lock_configuration",
        "INSERT INTO config VALUES ('a', 'b')",
        "UPDATE rollout SET k = 1",
        "DELETE FROM rollout",
    ],
)
def test_sql_on_a_snapshot_reaches_nothing_else(run_folder: Path, tmp_path: Path, sql: str) -> None:
    other_run = pyarrow.table({"secret": [1]})
    before = _files(run_folder)
    places = {
        "own": published_folder(run_folder),
        "other": published_folder(tmp_path),
        "database": database_path(run_folder),
        "folder": tmp_path,
    }
    with (
        contextlib.closing(open_reader(run_folder)) as connection,
        pytest.raises(Exception, match=r"Error: ") as refused,
    ):
        connection.execute(sql.format(**places)).fetchall()
    assert type(refused.value).__module__ in ("duckdb", "_duckdb")
    assert list(tmp_path.iterdir()) == []
    assert _files(run_folder) == before
    assert len(other_run) == 1


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    build_small_run(tmp_path)
    file = published_file(tmp_path, verified_commits(tmp_path)[1], "rollout")
    for damage in (lambda: file.write_bytes(b"PAR1 and so on"), file.unlink):
        damage()
        for ask in (lambda: query(tmp_path, "SELECT * FROM rollout"), lambda: load(tmp_path, Rollout)):
            with pytest.raises(IntegrityError, match=rf"{file.name}.*tapo audit verify --run"):
                ask()
    assert len(query(tmp_path, "SELECT * FROM verification")) == 6, "other tables can still be read"


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    entry = json.loads(ledger_path(tmp_path).read_text())
    ledger_path(tmp_path).write_text(json.dumps(entry | {"migration": 99}) + "\n")
    with pytest.raises(IntegrityError, match="newer version of TAPO"):
        open_reader(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_small_run(tmp_path, 1)
    real = Publisher._write

    def fail_at_tokens(self: Publisher, made: object, table: object, *rest: object) -> None:
        real(self, made, table, *rest)  # type: ignore[arg-type]
        if getattr(table, "name", "") == "rollout_tokens":
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "_write", fail_at_tokens)
        with pytest.raises(TransientError, match=r"No space left on device\. .* Nothing was written"):
            commit(tmp_path, stages()[1])
    assert list((tmp_path / "store" / "publishing").iterdir()) == []
    assert len(verified_commits(tmp_path)) == 1
    assert commit(tmp_path, stages()[1]).seq == 2
    assert verify(tmp_path).faults == []


def test_the_free_space_covers_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_small_run(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=65 * 2**20))
    assert commit(tmp_path, Stage(1, "small", many_rows(1, 2))).seq == 2
    large = [make_query(deterministic_id("query", n=n), "x" * 100_000) for n in range(10)]
    with pytest.raises(TransientError, match="65 MiB free, less than the 67 MiB that this stage may need"):
        commit(tmp_path, Stage(1, "large", large))


def _make_old(run_folder: Path) -> None:
    """A store as it was before there was publication."""
    old = ("seq", "run_id", "iteration", "stage", "chain_digest", "committed_at")
    lines = [json.loads(line) for line in ledger_path(run_folder).read_text().splitlines()]
    ledger_path(run_folder).write_text("".join(json.dumps({k: line[k] for k in old}) + "\n" for line in lines))
    shutil.rmtree(published_folder(run_folder))


def test_an_old_store_is_published_by_the_next_writer(tmp_path: Path) -> None:
    build_small_run(tmp_path)
    ledger, files = ledger_path(tmp_path).read_text(), _files(tmp_path)
    _make_old(tmp_path)
    for use in (open_reader, verified_commits, verify):
        with pytest.raises(UserError, match="older version of TAPO"):
            use(tmp_path)
    StoreWriter(tmp_path).migrate()
    assert ledger_path(tmp_path).read_text() == ledger
    assert _files(tmp_path) == files
    assert verify(tmp_path).faults == []


@pytest.fixture
def older_columns(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """TAPO before migration 4, which added columns to error_location (later ones, to other tables)."""
    monkeypatch.setattr(writer, "shipped_migrations", lambda: shipped_migrations()[:3])
    for record_class in (ErrorLocation, Verification, Rollout, Evaluation):
        monkeypatch.setitem(TABLES, record_class, table_at(TABLES[record_class], 3))
    monkeypatch.setitem(PARENTS, ErrorLocation, (Parent("rollout_id", Rollout),))
    monkeypatch.setattr(writer, "check_not_redacted", lambda *_: None)
    return monkeypatch


@pytest.mark.parametrize("published", [True, False])
def test_columns_of_a_later_migration_read_as_null(
    tmp_path: Path, older_columns: pytest.MonkeyPatch, published: bool
) -> None:
    build_small_run(tmp_path)
    older_columns.undo()
    if published:  # by now TAPO has the migration, and no writer has opened the store since
        assert query(tmp_path, "SELECT votes FROM error_location").votes.isna().tolist() == [True]
    else:
        _make_old(tmp_path)
    StoreWriter(tmp_path).migrate()
    (location,) = load(tmp_path, ErrorLocation)
    (written,) = (record for record in stages()[3].records if isinstance(record, ErrorLocation))
    missing = ("policy_version_id", "reference_rollout_id", "prompt_version", "prompt_sha256", "agreement", "votes")
    assert location == changed(written, **dict.fromkeys(missing))
    assert verify(tmp_path).faults == []
    other = dataclasses.replace(written, error_location_id=deterministic_id("error_location", iteration=1, n=9))
    commit(tmp_path, Stage(2, "located", [other]))
    assert [row.votes for row in load(tmp_path, ErrorLocation, error_location_id=other.error_location_id)] == [
        other.votes
    ]
    assert verify(tmp_path).faults == []
    with contextlib.closing(open_file(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM error_location WHERE votes IS NULL").fetchone() == (1,)


def test_the_run_of_another_store_is_not_seen(tmp_path: Path) -> None:
    build_small_run(tmp_path / "a", 2)
    build_small_run(tmp_path / "b", 1)
    assert len(load(tmp_path / "a", Rollout, run_id=RUN_ID)) == 4
    assert load(tmp_path / "b", Rollout, run_id=RUN_ID) == []
