"""Every change to a store is found and named, and a damaged database is made anew from the published files."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow
import pyarrow.parquet
import pytest
from small_run import (
    QUERY_ID,
    ROLLOUTS,
    VERSIONS,
    Stage,
    build_small_run,
    changed,
    commit,
    many_queries,
    stages,
    start_records,
)

from tapo_core.errors import IntegrityError, UserError
from tapo_core.ids import deterministic_id, tree_digest
from tapo_core.records import PolicyVersion
from tapo_core.store import load, open_reader, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.connection import database_path, ledger_path
from tapo_core.store.findings import Finding
from tapo_core.store.publish import TABLES_BY_NAME, published_file
from tapo_core.store.repair import repair
from tapo_core.store.tables import TABLES, Column

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def _edit(run_folder: Path, *statements: str) -> None:
    with contextlib.closing(duckdb.connect(database_path(run_folder))) as connection:
        for statement in statements:
            connection.execute(statement)


def _lines(run_folder: Path) -> list[str]:
    return [finding.line for finding in verify(run_folder).faults]


def test_a_store_as_it_was_written_is_clean(run: Path) -> None:
    report = verify(run)
    assert report.faults == []
    assert (report.n_commits, report.n_rows, report.n_files) == (6, 37, 20)
    assert report.chain_digest == verified_commits(run)[-1].chain_digest
    assert {finding.kind for finding in report.findings} == {"gone"}, "the small run has no checkpoints on disk"
    assert repair(run).faults == []


# Cells of the database are changed by SQL, cells of published files with pyarrow. A cell is (table, key, column).

_SEED = 20260107
_OTHER: dict[str, Callable[[Any], Any]] = {
    "VARCHAR": lambda value: f"{value or ''}.",
    "UUID": lambda value: deterministic_id("tampered", was=value),
    "INTEGER": lambda value: (value or 0) + 1,
    "DOUBLE": lambda value: (value or 0.0) + 2.0**-20,
    "BOOLEAN": lambda value: not value,
    "TIMESTAMP": lambda value: value.replace(microsecond=value.microsecond + 1),
    "INTEGER[]": lambda value: [*value[:-1], value[-1] + 1],
    "FLOAT[]": lambda value: [*(value or [0.5])[:-1], (value or [0.5])[-1] + 2.0**-10],
}


def _other(column: Column, value: Any) -> Any:
    if column.enum is not None:
        return next(member.value for member in column.enum if member != value)
    return _OTHER[column.sql_type](value)


def _cells(run_folder: Path, count: int, draw: random.Random) -> list[tuple[str, dict[str, Any], Column]]:
    """One cell in each of `count` rows of several tables: table, row, column."""
    rows = []
    with contextlib.closing(open_reader(run_folder)) as connection:
        for table in TABLES_BY_NAME.values():
            names = ", ".join(
                f"CAST({c.name} AS VARCHAR) AS {c.name}" if c.sql_type == "UUID" else c.name for c in table.columns
            )
            for row in connection.sql(f"SELECT {names} FROM {table.name} ORDER BY ALL").to_arrow_table().to_pylist():
                rows.append((table, row))
    cells = []
    for table, row in draw.sample(rows, count):
        # outcome and a reward that is null are tied by a CHECK, which would refuse one without the other
        columns = [
            c
            for c in table.columns
            if c.name != "outcome" and (c.name != "reward" or row["reward"] is not None) and not c.measured
        ]
        cells.append((table.name, row, draw.choice(columns)))
    return cells


def _where(table: str, row: dict[str, Any]) -> str:
    return " AND ".join(f"{name} = '{row[name]}'" for name in TABLES_BY_NAME[table].key)


def _tamper_database(run_folder: Path, table: str, row: dict[str, Any], column: Column) -> None:
    with contextlib.closing(duckdb.connect(database_path(run_folder))) as connection:
        value = _other(column, row[column.name])
        sql = f"UPDATE {table} SET {column.name} = CAST(? AS {column.sql_type}) WHERE {_where(table, row)}"
        assert connection.execute(sql, [value]).fetchone() == (1,)


def _tamper_file(run_folder: Path, table: str, row: dict[str, Any], column: Column) -> None:
    key = TABLES_BY_NAME[table].key
    for made in verified_commits(run_folder):
        file = published_file(run_folder, made, table)
        if table not in made.row_counts:
            continue
        rows = pyarrow.parquet.ParquetFile(file).read()
        cells = rows.to_pylist()
        for cell in cells:
            if all(cell[name] == row[name] for name in key):
                cell[column.name] = _other(column, cell[column.name])
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(cells, schema=rows.schema), file)
                return
    raise AssertionError("no file has the row")


def _is_named(faults: list[Finding], part: str, table: str, row: dict[str, Any], column: Column) -> bool:
    key = ", ".join(f"{name}={row[name]}" for name in TABLES_BY_NAME[table].key)
    about = [f for f in faults if (f.table, f.key) == (table, key)]
    if column.name in TABLES_BY_NAME[table].key:  # the row is not there any more, another one is
        return {f.part for f in about} == {"database"} and about[0].kind in ("missing", "added")
    return any(f.kind == "changed" and f.part == part and column.name in f.columns for f in about)


@pytest.mark.parametrize(("part", "tamper"), [("database", _tamper_database), ("published", _tamper_file)])
def test_25_of_25_changed_cells_are_named(run: Path, part: str, tamper: Callable[..., None]) -> None:
    cells = _cells(run, 25, random.Random(f"{_SEED} {part}"))
    assert len({table for table, _, _ in cells}) >= 8
    assert len({column.sql_type for _, _, column in cells}) >= 5
    for cell in cells:
        tamper(run, *cell)
    faults = verify(run).faults
    missed = [
        (table, row, column.name) for table, row, column in cells if not _is_named(faults, part, table, row, column)
    ]
    assert missed == []


@pytest.mark.slow
@pytest.mark.parametrize(("part", "tamper"), [("database", _tamper_database), ("published", _tamper_file)])
def test_each_changed_cell_is_named_alone(
    original: Path, tmp_path: Path, part: str, tamper: Callable[..., None]
) -> None:
    for number, cell in enumerate(_cells(original, 25, random.Random(f"{_SEED} {part}"))):
        copy = shutil.copytree(original, tmp_path / str(number))
        tamper(copy, *cell)
        faults = verify(copy).faults
        assert _is_named(faults, part, *cell), cell
        assert len(faults) <= 4, "nothing else is accused"


@pytest.mark.parametrize("column", ["config_digest", "input_digest", "manifest", "row_counts", "committed_at", "stage"])
def test_a_changed_commit_is_named(run: Path, column: str) -> None:
    value = {"committed_at": "TIMESTAMP '2026-01-01'", "manifest": "'{}'", "row_counts": "'{\"run\":1}'"}.get(
        column, "'other'"
    )
    _edit(run, f"UPDATE stage_commit SET {column} = {value} WHERE seq = 3")
    assert _lines(run) == [f"changed: database: stage_commit (seq=3): differs from the ledger [{column}]"]


def test_rows_taken_out_put_in_and_doubled_are_named(run: Path) -> None:
    stranger = deterministic_id("stranger", n=1)
    _edit(
        run,
        f"DELETE FROM rollout WHERE rollout_id = '{ROLLOUTS[1]}'",
        f"INSERT INTO rollout SELECT * REPLACE ('{stranger}' AS rollout_id) FROM rollout WHERE rollout_id = '{ROLLOUTS[0]}'",
        f"INSERT INTO rollout FROM rollout WHERE rollout_id = '{ROLLOUTS[2]}'",
    )
    assert sorted(_lines(run)) == sorted(
        [
            f"added: database: rollout (rollout_id={stranger}): no commit has this row",
            f"added: database: rollout (rollout_id={ROLLOUTS[2]}): the row is there twice",
            f"missing: database: rollout (rollout_id={ROLLOUTS[1]}): commit 2 has this row",
        ]
    )


def test_values_that_the_store_would_have_refused_are_named(run: Path) -> None:
    _edit(
        run,
        f"UPDATE rollout SET temperature = 'nan' WHERE rollout_id = '{ROLLOUTS[1]}'",
        "UPDATE token_weight SET weights_T = [NULL]",
    )
    found = {(f.table, f.columns) for f in verify(run).faults}
    assert found == {("rollout", ("temperature",)), ("token_weight", ("weights_T",))}


def test_published_files_taken_out_put_in_and_damaged_are_named(run: Path) -> None:
    commits = verified_commits(run)
    rollouts, tokens = (published_file(run, commits[1], name) for name in ("rollout", "rollout_tokens"))
    verdicts = published_file(run, commits[2], "verification")
    rollouts.unlink()
    tokens.write_bytes(tokens.read_bytes()[:-100])
    shutil.copy(verdicts, verdicts.with_name("00000099-verify.parquet"))
    rows = pyarrow.parquet.read_table(verdicts, partitioning=None)
    pyarrow.parquet.write_table(rows.slice(1), verdicts)
    found = [(f.kind, f.part, Path(f.file or "").name) for f in verify(run).faults]
    assert ("added", "published", "00000099-verify.parquet") in found
    assert ("missing", "published", "00000002-sample.parquet") in found
    assert ("changed", "published", "00000002-sample.parquet") in found
    assert ("missing", "published", "00000003-verify.parquet") in found
    with pytest.raises(IntegrityError, match="cannot be made anew"):
        repair(run)


def test_a_changed_ledger_is_named(run: Path) -> None:
    lines = ledger_path(run).read_text().splitlines(keepends=True)
    entry = json.loads(lines[2])
    for changes, message in (
        (
            {"manifest": {"stage": "other"}},
            "changed: ledger: commit 3 (stage verify of iteration 1) does not follow from the one before",
        ),
        ({"config_digest": "x"}, "changed: database: stage_commit (seq=3): differs from the ledger [config_digest]"),
    ):
        ledger_path(run).write_text("".join([*lines[:2], json.dumps(entry | changes) + "\n", *lines[3:]]))
        assert any(line.startswith(message) for line in _lines(run))
    ledger_path(run).write_text("".join([*lines[:2], "{}\n", *lines[3:]]))
    assert any("line 3 is no ledger entry" in line for line in _lines(run))
    ledger_path(run).write_text("".join(lines[:5]))
    assert [line[:50] for line in _lines(run)] == ["missing: ledger: stage_commit (seq=6): no line for"[:50]]


def test_content_digests_are_held_against_contents(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    wrong = changed(many_queries(1, 1)[0], content_sha256="0" * 64)
    commit(tmp_path, Stage(1, "wrong", [wrong]))
    (line,) = _lines(tmp_path)
    assert line.startswith(f"changed: published: query (query_id={wrong.query_id}): content_sha256 is not")


def test_checkpoints_are_held_against_their_digests(tmp_path: Path) -> None:
    for name in ("hf", "deepspeed"):
        (tmp_path / "policies" / name).mkdir(parents=True)
        (tmp_path / "policies" / name / "weights").write_text(name)
    first, *rest = [r for r in start_records() if isinstance(r, PolicyVersion)] + start_records()
    version = changed(
        first,
        checkpoint_path="policies/hf",
        checkpoint_digest=tree_digest(tmp_path / "policies/hf"),
        optimizer_path="policies/deepspeed",
        optimizer_digest=tree_digest(tmp_path / "policies/deepspeed"),
    )
    commit(tmp_path, Stage(0, "start", [version, *(r for r in rest if not isinstance(r, PolicyVersion))]))
    assert verify(tmp_path).findings == []
    (tmp_path / "policies/hf/weights").write_text("other")
    shutil.rmtree(tmp_path / "policies/deepspeed")
    assert [(f.kind, f.key, f.columns) for f in verify(tmp_path).findings] == [
        ("changed", f"policy_version_id={VERSIONS[0]}", ("checkpoint_digest",)),
        ("gone", f"policy_version_id={VERSIONS[0]}", ()),
    ]


def _shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbled(begin: float, count: int) -> Callable[[Path], None]:
    def garble(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first = int(begin * len(content))
        content[first : first + count] = random.Random(0).randbytes(len(content[first : first + count]))
        path.write_bytes(content)

    return garble


DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": _shorter,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "garbled at its head": _garbled(0.0, 3 * 4096),
    "garbled in the middle": _garbled(0.3, 3 * 65536),
    "garbled at its end": _garbled(0.975, 10**6),
    "an old copy": lambda path: shutil.copy(path.with_name("old"), path),
    "another run's": lambda path: shutil.copy(path.with_name("other"), path),
}


#: The others take another ten seconds each on a slow machine.
QUICK = {"deleted", "garbled in the middle", "an old copy"}


@pytest.mark.parametrize("how", [how if how in QUICK else pytest.param(how, marks=pytest.mark.slow) for how in DAMAGE])
def test_a_damaged_database_is_named_and_made_anew(tmp_path: Path, how: str) -> None:
    run = tmp_path / "run"
    build_small_run(run, 4)
    path = database_path(run)
    shutil.copy(path, path.with_name("old"))
    shutil.copy(database_path(build_small_run(tmp_path / "other", 1)), path.with_name("other"))
    commit(run, stages()[4])
    records = {record_class: load(run, record_class) for record_class in TABLES}
    DAMAGE[how](path)
    damaged = path.read_bytes() if path.exists() else None
    assert any(f.part == "database" for f in verify(run).faults)
    if how != "garbled at its end":  # a writer reads little, and cannot see what it does not come by
        with pytest.raises(IntegrityError, match="tapo audit repair --run"):
            commit(run, stages()[5])
    assert (path.read_bytes() if path.exists() else None) == damaged, "nothing is repaired silently"
    assert {record_class: load(run, record_class) for record_class in TABLES} == records, "readers go on"
    done = repair(run)
    assert done.faults
    assert (done.kept.read_bytes() if done.kept else None) == damaged
    assert verify(run).faults == []
    assert commit(run, stages()[5]).seq == 6
    assert verify(run).faults == []
    assert repair(run).faults == []


def test_nothing_is_made_from_damaged_files(run: Path) -> None:
    file = published_file(run, verified_commits(run)[0], "query")
    _tamper_file(
        run, "query", {"query_id": QUERY_ID}, next(c for c in TABLES_BY_NAME["query"].columns if c.name == "gold")
    )
    database_path(run).unlink()
    with pytest.raises(
        IntegrityError, match=r"cannot be made anew, because \d+ things are wrong .* Nothing was changed"
    ):
        repair(run)
    assert file.exists()
    assert not database_path(run).exists()


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    for use in (verify, repair):
        with pytest.raises(UserError, match=f"no run in {tmp_path}"):
            use(tmp_path)


def _tapo(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from tapo_core.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_the_commands(run: Path) -> None:
    clean = _tapo("audit", "verify", "--run", str(run))
    assert (clean.returncode, clean.stderr) == (0, "")
    assert "6 commits, 20 published files, 37 rows, 0 of them redacted; 0 faults, 3 folders gone" in clean.stdout
    _edit(run, f"UPDATE rollout SET text = 'x' WHERE rollout_id = '{ROLLOUTS[0]}'")
    found = _tapo("audit", "verify", "--json", "--run", str(run))
    assert found.returncode == 1
    (fault,) = [f for f in map(json.loads, found.stdout.splitlines()) if f["kind"] != "gone"]
    assert (fault["kind"], fault["part"], fault["table"], fault["columns"]) == (
        "changed",
        "database",
        "rollout",
        ["text"],
    )
    repaired = _tapo("audit", "repair", "--run", str(run))
    assert repaired.returncode == 0
    assert "was made anew from the published files; the damaged one is" in repaired.stdout
    assert _tapo("audit", "verify", "--run", str(run)).returncode == 0


def test_the_shell(run: Path) -> None:
    typed = [
        *(".schema run", "SELECT 1 +", " 1 AS two; ", "selec;", "DROP VIEW rollout;"),
        *("SELECT ';' AS s, k -- ; no", "FROM rollout WHERE k = 3;", ".quit", "SELECT 2;"),
    ]
    done = _tapo("shell", "--run", str(run), stdin="\n".join(typed))
    assert done.returncode == 0
    words = done.stdout.split()
    assert "run_id" in words
    assert words[words.index("two") + 2] == "2"
    assert done.stdout.splitlines()[-1].split("│")[0].strip() == ";"
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["SQL", "SQL on a run is read-only"]
    assert ".tables" not in done.stderr
    names = _tapo("shell", "--run", str(run), stdin=".tables").stdout.split()
    assert {"rollout", "why_in_batch", "stage_commit"} < set(names)
    assert not any(name.startswith("published") for name in names)
