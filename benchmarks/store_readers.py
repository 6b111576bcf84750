"""What a snapshot costs when a run has many commits.

    .venv/bin/python benchmarks/store_readers.py [--commits 1000]

Writes commits of three tables (12 queries, 12 rollouts, 12 rows of tokens each) into a temporary folder, then prints the median
time of opening, of a few questions, and the time of one audit.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "store"))

from small_run import Stage, build_small_run, commit, many_rows

from tapo_core.store import open_reader
from tapo_core.store.audit import verify
from tapo_core.store.snapshot import snapshot_commits

QUESTIONS = {
    "scan of one table": "SELECT count(*), avg(n_tokens) FROM rollout",
    "join of two tables": "SELECT count(*) FROM rollout JOIN query USING (query_id)",
    "iteration_summary": "FROM iteration_summary",
}


def timed(name: str, run: Callable[[], object], times: int = 5) -> None:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    print(f"{name:20s} {statistics.median(seconds):8.3f} s")


def main() -> None:
    """Write, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=1000)
    commits = parser.parse_args().commits
    with tempfile.TemporaryDirectory() as folder:
        run = build_small_run(Path(folder), 1)
        began = time.perf_counter()
        for number in range(1, commits + 1):
            commit(run, Stage(number, "many", many_rows(number, 12)))
        print(f"{'one commit':20s} {(time.perf_counter() - began) / commits:8.3f} s")
        timed("reading the ledger", lambda: snapshot_commits(run))
        timed("opening", lambda: open_reader(run).close())
        connection = open_reader(run)
        for name, sql in QUESTIONS.items():
            timed(name, lambda sql=sql: connection.execute(sql).fetchall())  # type: ignore[misc]
        connection.close()
        timed("audit", lambda: verify(run), 1)


if __name__ == "__main__":
    main()
