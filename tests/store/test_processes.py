"""What two processes do to each other, and what kill -9 leaves behind."""

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import RUN_ID, Stage, build_small_run, commit, many_queries, stages

from tapo_core.errors import StoreLockedError
from tapo_core.store import StoreWriter, open_reader, verified_commits
from tapo_core.store.connection import database_path
from tapo_core.store.ledger import read_ledger
from tapo_core.store.reader import open_database

_HOLD = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(60)"
_WRITE = """
import sys
from pathlib import Path
from small_run import Stage, commit, many_queries
for n in range(int(sys.argv[2]), 10**6):
    commit(Path(sys.argv[1]), Stage(n, "queries", many_queries(n, 50)))
    print(n, flush=True)
"""


@contextlib.contextmanager
def _process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
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
    with _process(_HOLD, str(database_path(tmp_path))) as holder:
        for use in (
            lambda: StoreWriter(tmp_path, lock_seconds=0.2).migrate(),
            lambda: open_database(tmp_path, lock_seconds=0.2),
        ):
            with pytest.raises(StoreLockedError, match=rf"held by PID {holder.pid} .* within 0\.2 s"):
                use()


def test_writer_waits_for_a_short_holder(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    with _process(_HOLD, str(database_path(tmp_path))) as holder:
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


def test_killed_writer_loses_nothing_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    build_small_run(tmp_path, 1)
    waits = random.Random(0)
    for _ in range(3):
        done = len(read_ledger(tmp_path / "store" / "ledger.jsonl"))
        with _process(_WRITE, str(tmp_path), str(done)) as child:
            time.sleep(waits.uniform(0.0, 0.15))
            child.send_signal(signal.SIGKILL)
            child.wait()
        acknowledged = read_ledger(tmp_path / "store" / "ledger.jsonl")
        assert len(acknowledged) > done
        commits = StoreWriter(tmp_path).commits(RUN_ID)
        assert [entry.chain_digest for entry in acknowledged] == [made.chain_digest for made in commits][
            : len(acknowledged)
        ]
        assert len(commits) - len(acknowledged) in (0, 1)
        assert read_ledger(tmp_path / "store" / "ledger.jsonl")[-1].seq == commits[-1].seq
        with contextlib.closing(open_reader(tmp_path)) as connection:
            assert connection.execute("SELECT count(*) FROM query").fetchone() == (1 + 50 * (len(commits) - 1),)
    verified_commits(tmp_path)
