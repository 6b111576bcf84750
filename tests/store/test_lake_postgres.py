"""A lake with its catalog in Postgres: many writers, readers beside them, and writers that are killed.

Starts Debian's PostgreSQL by itself, in a temporary folder, on a socket there.
"""

import contextlib
import itertools
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from many_runs import build_run, run_id_of
from small_run import stages

from tapo_core.store import open_reader, query, verified_commits
from tapo_core.store.lake import add_run
from tapo_core.store.lake_reader import lake_runs, open_lake, query_lake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_ROWS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A PostgreSQL that listens on a socket in the folder that is given. Its superuser is tapo."""
    bins = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not bins[-1].is_file():
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    as_user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="tapo-postgres-"))
    if as_user:
        os.chown(folder, as_user["user"], as_user["group"])

    def control(program: str, *arguments: str, check: bool = True) -> None:
        command = [str(bins[-1].parent / program), *arguments]
        # Not captured: the server inherits what pg_ctl has, and would hold the pipe open.
        with (folder / "log").open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, timeout=120, check=check, cwd="/", **as_user)

    try:
        control("initdb", "-D", str(folder / "data"), "-U", "tapo", "-A", "trust", "--no-sync", "--locale=C")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        control("pg_ctl", "-D", str(folder / "data"), "-w", "-o", options, "start")
        yield folder
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            control("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop", check=False)
        shutil.rmtree(folder)


def _unprivileged() -> dict[str, int]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid}
    pytest.skip("root, and neither user postgres nor nobody to run PostgreSQL as")


@pytest.fixture
def catalog(server: Path) -> str:
    """A database of its own."""
    name = f"lake_{next(_numbers)}"
    _psql(server, "postgres", f"CREATE DATABASE {name}")
    return f"postgres:dbname={name} host={server} user=tapo"


_numbers = itertools.count()


def _psql(server: Path, database: str, sql: str) -> None:
    psql = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql")) or [Path(shutil.which("psql") or "psql")]
    command = [
        str(psql[-1]),
        "-qX",
        "-v",
        "ON_ERROR_STOP=1",
        "-h",
        str(server),
        "-U",
        "tapo",
        "-d",
        database,
        "-c",
        sql,
    ]
    subprocess.run(command, check=True, timeout=60)


def _start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A child that says what it does, line by line."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{script}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_WRITER = """
from pathlib import Path
from many_runs import build_run, commit_of_run
from small_run import Stage, many_rows
from tapo_core.store.lake import add_run
catalog, folder, name, first, last = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
if first == 1:
    build_run(folder, name, 1)
    assert add_run(catalog, folder) == 1
for n in range(first, last + 1):
    commit_of_run(folder, name, Stage(n, "many", many_rows(n, 20)))
    print("committed", n, flush=True)
    add_run(catalog, folder)
    print("added", n, flush=True)
"""

#: Polls the lake as a person's SQL sees it and as DuckLake sees it, and stops with an error at the first torn commit.
_READER = """
from pathlib import Path
from tapo_core.errors import UserError
from tapo_core.store.lake import open_catalog
from tapo_core.store.lake_reader import open_lake
catalog, stop = sys.argv[1], Path(sys.argv[2])
SQL = '''
SELECT CAST(s.run_id AS VARCHAR), count(*), (SELECT count(*) FROM query WHERE run_id = s.run_id),
    (SELECT count(*) FROM rollout WHERE run_id = s.run_id), (SELECT count(*) FROM rollout_tokens WHERE run_id = s.run_id)
FROM stage_commit AS s GROUP BY s.run_id
'''
last, states = {}, set()
while not stop.exists():
    for one in ("people", "ducklake"):
        try:
            if one == "people":
                connection = open_lake(catalog)
                found = connection.execute(SQL).fetchall()
                connection.close()
            else:
                with open_catalog(catalog, for_writing=False) as connection:
                    found = connection.execute(SQL).fetchall()
        except UserError as error:  # before the first writer has made it
            assert "holds no lake" in str(error) and not last, error
            continue
        for run_id, commits, *rows in found:
            added = 20 * (commits - 1)
            assert rows == [1 + added, added, added], (one, run_id, commits, rows)
            assert commits >= last.get(run_id, 0), (one, run_id, commits, last)
        assert set(last) <= {row[0] for row in found}
        last = {row[0]: row[1] for row in found}
        states.add(tuple(sorted(last.items())))
print(len(states), flush=True)
"""


def _finish(child: subprocess.Popen[str]) -> list[str]:
    out, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return out.splitlines()


def _check_same_as_on_the_runs(catalog: str, runs: dict[str, Path]) -> None:
    """The same SQL gives the same on the lake, for each run, as on the run."""
    for name, folder in runs.items():
        for view in (
            "stage_commit",
            "query",
            "rollout",
            "rollout_tokens",
            "trajectory",
            "iteration_summary",
            "stage_time",
        ):
            sql = f"SELECT * FROM {view} WHERE run_id = '{run_id_of(name)}' ORDER BY ALL"
            mine = query(folder, sql)
            assert len(mine) > 0 or view == "iteration_summary"
            assert query_lake(catalog, sql).equals(mine), (name, view)


def test_two_writers_and_readers_beside_them(tmp_path: Path, catalog: str) -> None:
    runs = {name: tmp_path / name for name in ("one", "two")}
    stop, n = tmp_path / "stop", 25
    readers = [_start(_READER, catalog, stop) for _ in range(2)]
    writers = [_start(_WRITER, catalog, folder, name, "1", str(n)) for name, folder in runs.items()]
    try:
        for writer in writers:
            assert _finish(writer)[-1] == f"added {n}"
        stop.touch()
        states = [int(_finish(reader)[-1]) for reader in readers]
    finally:
        for child in (*readers, *writers):
            child.kill()
    assert min(states) > 3, "the readers did not read beside the writers"
    assert [len(run.commits) for run in lake_runs(catalog)] == [n + 1, n + 1]
    _check_same_as_on_the_runs(catalog, runs)


def test_a_commit_that_several_add_at_once_is_there_once(tmp_path: Path, catalog: str) -> None:
    run = build_run(tmp_path / "run", "one")
    adding = """
from pathlib import Path
from tapo_core.store.lake import add_run
print(add_run(sys.argv[1], Path(sys.argv[2])), flush=True)
"""
    children = [_start(adding, catalog, run) for _ in range(4)]
    added = [int(_finish(child)[-1]) for child in children]
    assert sum(added) == len(stages())
    _check_same_as_on_the_runs(catalog, {"one": run})


def test_killed_writers_leave_nothing_half_done_and_the_next_catches_up(tmp_path: Path, catalog: str) -> None:
    """kill -9 between the local commit and the lake, in every second round; else at some other moment."""
    waits, run, done = random.Random(0), tmp_path / "run", 0
    build_run(run, "one", 1)
    add_run(catalog, run)
    behind = 0
    for number in range(12):
        child = _start(_WRITER, catalog, run, "one", str(done + 2), str(10**6))
        assert child.stdout is not None
        assert child.stdout.readline().startswith("committed")
        if number % 2:
            time.sleep(waits.uniform(0.0, 2.0))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        done = len(verified_commits(run)) - 1
        with contextlib.closing(open_lake(catalog)) as connection:  # as it was left
            sql = "SELECT (SELECT count(*) FROM stage_commit), count(*) FROM rollout"
            (found,) = connection.execute(sql).fetchall()
        assert found[1] == _ROWS * (found[0] - 1)
        assert found[0] <= done + 1
        behind += found[0] < done + 1
        if number % 3 == 2:
            assert add_run(catalog, run) == done + 1 - found[0]
    assert behind > 3, "hardly any kill came between the local commit and the lake"
    add_run(catalog, run)
    assert len(lake_runs(catalog)[0].commits) == done + 1
    _check_same_as_on_the_runs(catalog, {"one": run})


def test_who_may_only_select_can_read(tmp_path: Path, server: Path, catalog: str) -> None:
    run = build_run(tmp_path / "run", "one")
    add_run(catalog, run)
    database = catalog.split("dbname=")[1].split()[0]
    _psql(server, database, "CREATE ROLE reader LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    reading = catalog.replace("user=tapo", "user=reader")
    with contextlib.closing(open_reader(run)) as store:
        n = store.execute("SELECT count(*) FROM rollout").fetchone()
    assert query_lake(reading, "SELECT count(*) AS n FROM rollout")["n"].to_list() == list(n or ())
