"""What a lake costs, by the number of its runs.

    .venv/bin/python benchmarks/store_lake.py [--runs 10] [--catalog "postgres:dbname=tapo host=127.0.0.1"]

Writes runs of seven commits into a temporary folder and adds them to a lake (without --catalog: a DuckDB file there; else a
database that holds no lake yet). Prints the median time of adding one commit more, and of opening and asking the whole lake.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "tests" / "store")]

from many_runs import build_run, commit_of_run, run_id_of
from small_run import Stage, many_rows
from store_readers import timed

from tapo_core.store import open_reader
from tapo_core.store.lake import add_run
from tapo_core.store.lake_reader import lake_runs, open_lake


def main() -> None:
    """Write, add, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--catalog")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        catalog = arguments.catalog or f"{folder}/lake.duckdb"
        for number in range(arguments.runs):
            add_run(catalog, build_run(Path(folder, str(number)), str(number)))
        run, seconds = Path(folder, "0"), []
        for number in range(5):
            commit_of_run(run, "0", Stage(number, "many", many_rows(number, 12)))
            began = time.perf_counter()
            add_run(catalog, run)
            seconds.append(time.perf_counter() - began)
        print(f"{'adding a commit':20s} {sorted(seconds)[2]:8.3f} s")
        timed("opening one run", lambda: open_reader(run).close())
        timed("asking the catalog", lambda: lake_runs(catalog))
        timed("opening the lake", lambda: open_lake(catalog).close())
        connection = open_lake(catalog)
        timed("iteration_summary", lambda: connection.execute("FROM iteration_summary").fetchall())
        of_one = f"FROM iteration_summary WHERE run_id = '{run_id_of('1')}'"
        timed("the same of one run", lambda: connection.execute(of_one).fetchall())
        connection.close()


if __name__ == "__main__":
    main()
