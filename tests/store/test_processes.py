"""What two processes do to each other, and what kill -9 leaves behind."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_run import RUN_ID, Stage, build_small_run, commit, many_queries, many_rows, stages

from tapo_core.errors import IntegrityError, StoreLockedError
from tapo_core.store import StoreWriter, open_reader, verified_commits
from tapo_core.store.audit import verify
from tapo_core.store.connection import database_path, ledger_path
from tapo_core.store.ledger import read_ledger
from tapo_core.store.publish import published_redactions
from tapo_core.store.redaction import Redactions
from tapo_core.store.repair import repair

HOLD = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(600)"
_WRITE = """
import sys, time
from pathlib import Path
from small_run import Stage, commit, many_rows
for n in range(int(sys.argv[2]), 10**6):
    commit(Path(sys.argv[1]), Stage(n, "many", many_rows(n, 20)))
    print(n, flush=True)
    time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
"""
_ROWS = 20


@contextlib.contextmanager
def process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A child that has said its first line."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r})\n{script}"
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline()
            yield child
        finally:
            child.kill()


def test_holder_is_named(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with process(HOLD, str(database_path(tmp_path))) as holder:
        for use in (
            lambda: StoreWriter(tmp_path, lock_seconds=0.2).migrate(),
            lambda: StoreWriter(tmp_path, keeps_open=True, lock_seconds=0.2).connection(),
        ):
            with pytest.raises(StoreLockedError, match=rf"held by PID {holder.pid} .* within 0\.2 s"):
                use()


def test_this_process_is_named_as_a_holder(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with duckdb.connect() as other:
        other.execute(f"ATTACH '{database_path(tmp_path)}' AS run")
        with pytest.raises(StoreLockedError, match=rf"held by this process \(PID {os.getpid()}\) .* within 0\.2 s"):
            StoreWriter(tmp_path, lock_seconds=0.2).migrate()
        other.execute("DETACH run")
        StoreWriter(tmp_path, lock_seconds=0.2).migrate()


def test_writer_waits_for_a_short_holder(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with process(HOLD, str(database_path(tmp_path))) as holder:
        release = threading.Timer(0.3, holder.kill)
        release.start()
        assert commit(tmp_path, stages()[1]).seq == 2
        release.join()


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    threads = [
        threading.Thread(target=commit, args=(tmp_path, Stage(n, "queries", many_queries(n, 2)))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made.seq for made in verified_commits(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "kills", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["few", "many"]
)
def test_killed_writer_loses_nothing_and_leaves_nothing_half_done(tmp_path: Path, kills: int) -> None:
    waits = random.Random(0)
    for number in range(kills):
        run = tmp_path / str(number // 10)  # a store that grows is slow to audit
        if number % 10 == 0:
            build_small_run(run, 1)
        done = len(read_ledger(ledger_path(run)))
        with process(_WRITE, str(run), str(done)) as child:
            time.sleep(waits.uniform(0.0, 0.2))
            child.send_signal(signal.SIGKILL)
            child.wait()
        acknowledged = read_ledger(ledger_path(run))
        assert len(acknowledged) > done
        # As it was left: readers see what was acknowledged, and nothing else.
        assert _counts(run) == _rows_after(len(acknowledged))
        commits = StoreWriter(run).commits(RUN_ID)
        digests = [made.chain_digest for made in commits]
        assert [entry.chain_digest for entry in acknowledged] == digests[: len(acknowledged)]
        assert len(commits) - len(acknowledged) in (0, 1)
        assert _counts(run) == _rows_after(len(commits))
        assert verified_commits(run) == commits
        assert not any((run / "store" / "publishing").iterdir())
        assert verify(run).faults == []


def _counts(run_folder: Path) -> tuple[int, ...]:
    """Rows of the tables that `_WRITE` fills, and commits; from one snapshot."""
    names = ("query", "rollout", "rollout_tokens", "stage_commit")
    with contextlib.closing(open_reader(run_folder)) as connection:
        found = [connection.execute(f"SELECT count(*) FROM {name}").fetchone() for name in names]
    return tuple(row[0] for row in found if row)


def _rows_after(n_commits: int) -> tuple[int, ...]:
    added = _ROWS * (n_commits - 1)
    return 1 + added, added, added, n_commits


def test_readers_see_whole_prefixes_while_another_process_commits(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    seen = []
    with process(_WRITE, str(tmp_path), "1") as child:
        while len(set(seen)) < 6:
            assert child.poll() is None
            counts = _counts(tmp_path)
            assert counts == _rows_after(counts[-1])
            seen.append(counts[-1])
    assert seen == sorted(seen)


def test_readers_do_not_need_the_database(tmp_path: Path) -> None:
    build_small_run(tmp_path, 2)
    with process(HOLD, str(database_path(tmp_path))), contextlib.closing(open_reader(tmp_path)) as connection:
        assert connection.execute("SELECT count(*) FROM rollout").fetchone() == (4,)


def test_an_audit_waits_for_a_writer(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with process(HOLD, str(database_path(tmp_path))) as holder:
        with pytest.raises(StoreLockedError, match=f"held by PID {holder.pid}"):
            verify(tmp_path, lock_seconds=0.2)
        release = threading.Timer(0.3, holder.kill)
        release.start()
        assert verify(tmp_path).faults == []
        release.join()


def test_an_audit_of_a_run_that_goes_on_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_small_run(tmp_path, 1)
    commit(tmp_path, Stage(1, "many", many_rows(1, _ROWS)))

    def commit_meanwhile(*arguments: Any) -> Redactions:
        """Called when the ledger was read, and no row of the database."""
        commit(tmp_path, Stage(2, "many", many_rows(2, _ROWS)))
        return published_redactions(*arguments)

    monkeypatch.setattr("tapo_core.store.audit.published_redactions", commit_meanwhile)
    report = verify(tmp_path)
    assert report.faults == []
    assert (report.n_commits, len(verified_commits(tmp_path))) == (2, 3)


def test_audits_beside_a_writer_are_clean(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with process(_WRITE, str(tmp_path), "1", "0.05") as child:
        seen = set()
        while len(seen) < 3:
            report = verify(tmp_path)
            assert report.faults == []
            seen.add(report.n_commits)
            assert child.poll() is None


_KILLED_AT = """
import os, sys
from pathlib import Path
from small_run import Stage, build_small_run, commit, many_rows
from tapo_core.store import writer
from tapo_core.store.publish import Publisher, published_file
folder, step = Path(sys.argv[1]), sys.argv[2]
build_small_run(folder, 1)
print("begun", flush=True)

def die(*_):
    os._exit(9)

def last_rename(self, commit, *rest):
    names = list(commit.row_counts)
    for name in names[:-1]:
        self._rename(self._temporary(commit, name), published_file(folder, commit, name))
    die()

prepare = Publisher.prepare
if step == "prepared":
    Publisher.prepare = lambda *a: (prepare(*a), die())
elif step == "committed":
    Publisher.finish = die
elif step == "half renamed":
    Publisher.finish = last_rename
elif step == "renamed":
    writer.append_to_ledger = die
elif step == "in the log":

    class Connection:  # whose process is killed before the checkpoint: the commit is in the write-ahead log alone
        def __init__(self, real):
            self.real = real

        def __getattr__(self, name):
            return getattr(self.real, name)

        def execute(self, sql, *rest):
            return die() if sql == "CHECKPOINT" else self.real.execute(sql, *rest)

    connect = writer.connect
    writer.connect = lambda *a, **k: Connection(connect(*a, **k))
commit(folder, Stage(1, "many", many_rows(1, 5)))
"""
_LEFT = {  # what the crash leaves: temporaries, published files of the commit
    "prepared": (3, 0),
    "in the log": (3, 0),
    "committed": (3, 0),
    "half renamed": (1, 2),
    "renamed": (0, 3),
}


def _killed_at(run_folder: Path, step: str) -> None:
    with process(_KILLED_AT, str(run_folder), step) as child:
        assert child.wait() == 9


@pytest.mark.parametrize("step", _LEFT)
def test_a_crash_between_any_two_steps_is_finished_by_the_next_writer(tmp_path: Path, step: str) -> None:
    _killed_at(tmp_path, step)
    in_place = list((tmp_path / "store" / "published").rglob("00000002-many.parquet"))
    temporaries = list((tmp_path / "store" / "publishing").iterdir())
    assert (len(temporaries), len(in_place)) == _LEFT[step]
    assert len(verified_commits(tmp_path)) == 1, "what has no line in the ledger does not exist for readers"
    StoreWriter(tmp_path).migrate()
    commits = verified_commits(tmp_path)
    assert [made.stage for made in commits] == (["start"] if step == "prepared" else ["start", "many"])
    assert list((tmp_path / "store" / "publishing").iterdir()) == []
    assert verify(tmp_path).faults == []
    commit(tmp_path, Stage(1, "many", many_rows(1, 5)))
    counts = dict(zip(("query", "rollout", "rollout_tokens", "commits"), _counts(tmp_path), strict=True))
    assert counts == {"query": 6, "rollout": 5, "rollout_tokens": 5, "commits": 2}
    assert verify(tmp_path).faults == []


def test_files_that_a_power_loss_took_come_from_the_database(tmp_path: Path) -> None:
    _killed_at(tmp_path, "committed")
    for temporary in (tmp_path / "store" / "publishing").glob("*rollout*"):
        temporary.unlink()
    StoreWriter(tmp_path).migrate()
    assert len(verified_commits(tmp_path)) == 2
    assert verify(tmp_path).faults == []


@pytest.mark.parametrize(
    "damage",
    [
        "garbled",
        "an old one",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("deleted", "truncated", "garbage")),
    ],
)
def test_a_damaged_log_loses_nothing_that_was_acknowledged(tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    _killed_at(run, "in the log")
    log = run / "store" / "trajectories.duckdb.wal"
    content = log.read_bytes()
    assert len(content) > 1000
    if damage == "an old one":
        StoreWriter(run).migrate()
        commit(run, Stage(2, "many", many_rows(2, 5)))
        assert not log.exists()
    changed = bytearray(content)
    changed[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    left = {
        "truncated": content[: len(content) // 2],
        "garbled": changed,
        "garbage": b"garbage" * 1000,
        "an old one": content,
    }
    log.unlink(missing_ok=True)
    if damage != "deleted":
        log.write_bytes(left[damage])
    acknowledged = verified_commits(run)
    try:
        StoreWriter(run).migrate()
    except IntegrityError as error:
        assert "tapo audit repair" in str(error)  # noqa: PT017 (whether it opens is DuckDB's choice, and both are right)
        assert repair(run).faults != []
        StoreWriter(run).migrate()
    assert verified_commits(run)[: len(acknowledged)] == acknowledged
    if verify(run).faults:
        assert repair(run).faults != []
    assert verify(run).faults == []
    assert commit(run, Stage(1, "many", many_rows(1, 5))).seq == 2
    assert _counts(run)[1] == 5 * (len(verified_commits(run)) - 1)
    assert verify(run).faults == []
