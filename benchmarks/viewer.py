"""Time to first byte of every page of the viewer, on a synthetic run of any size.

    .venv/bin/python benchmarks/viewer.py [--rollouts 1000000] [--tokens 60] [--folder FOLDER]

Commits the stages of a run through `StoreWriter` (a quarter of an hour and more for a million rollouts; a FOLDER that has the run
already is used as it is), serves it as `tapo view` does, and asks for each page over HTTP: once when nothing is open yet, then
several times, for another iteration or trajectory each time. Prints the first time, the median and the longest of the others, and
the median of their CPU seconds (of all threads, to the end of the page), which other work on the machine moves less.
"""

import argparse
import http.client
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from synthetic_run import GROUP_SIZE, SyntheticRun, commit

from tapo_core.cli.view import listening
from tapo_core.store import open_reader
from tapo_core.store.connection import ledger_path
from tapo_core.store.snapshot import of_iterations, snapshot_commits
from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app

N_GROUPS = 250  #: in an iteration, of 8 rollouts each
RUN = "synthetic"


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds to the first byte of a page: of the first request, and of those after it."""

    page: str
    first: float
    others: tuple[float, ...]
    cpu: tuple[float, ...]  #: CPU seconds of those after the first

    @property
    def median(self) -> float:
        """Of those after the first."""
        return statistics.median(self.others)


def make_run(folder: Path, rollouts: int, tokens: int) -> Path:
    """A synthetic run of so many rollouts in a folder; how far it is, is printed now and then."""
    run_folder = folder / RUN
    if ledger_path(run_folder).exists():
        there = sum(commit.row_counts.get("rollout", 0) for commit in snapshot_commits(run_folder))
        if there < rollouts:
            raise ValueError(f"{run_folder} has {there} rollouts, not {rollouts}: delete it, or name another folder")
        return run_folder
    run = SyntheticRun(tokens)
    commit(run_folder, 0, "start", run.start())
    for iteration in range(1, max(1, rollouts // (N_GROUPS * GROUP_SIZE)) + 1):
        for stage, records in run.stages(iteration, N_GROUPS):
            commit(run_folder, iteration, stage, records)
        if iteration % 50 == 0:
            print(f"{iteration * N_GROUPS * GROUP_SIZE} rollouts", flush=True)
    return run_folder


def addresses(run_folder: Path, times: int, seed: int = 0) -> Mapping[str, list[str]]:
    """For each page, an address for each time it is asked for, about iterations that are drawn."""
    with open_reader(run_folder, only=["iteration"]) as connection:
        found = connection.execute(
            "SELECT DISTINCT iteration FROM stage_commit WHERE stage = 'sample' ORDER BY 1"
        ).fetchall()
    iterations = [int(row[0]) for row in found]
    draw = random.Random(seed)
    chosen = draw.sample(iterations, times) if len(iterations) >= times else draw.choices(iterations, k=times)
    groups, rollouts, corrections = [], [], []
    for iteration in chosen:
        near = of_iterations({iteration})
        with open_reader(run_folder, wanted=near, only=["rollout", "correction"]) as connection:
            # A rollout that was corrected, and its construction: the pages with most on them.
            row = connection.execute(
                "SELECT query_id, wrong_rollout_id, correction_id FROM correction WHERE iteration = ? "
                "ORDER BY parse_outcome <> 'parsed', correction_id LIMIT 1",
                [iteration],
            ).fetchone()
        assert row is not None, f"iteration {iteration} has no construction"
        query, rollout, correction = map(str, row)
        groups.append(urls.group_url(RUN, iteration, query))
        rollouts.append(rollout)
        corrections.append(correction)
    word = f"no such word {seed}"
    return {
        "runs": [urls.runs_url()] * times,
        "run": [urls.run_url(RUN)] * times,
        "configuration": [urls.config_url(RUN)] * times,
        "iteration": [urls.iteration_url(RUN, one) for one in chosen],
        "group": groups,
        "rollout": [urls.trajectory_url(RUN, one) for one in rollouts],
        "constructed trajectory": [urls.trajectory_url(RUN, one) for one in corrections],
        "lineage of a rollout": [urls.lineage_url(RUN, one) for one in rollouts],
        "lineage of a construction": [urls.lineage_url(RUN, one) for one in corrections],
        "search, nothing asked": [urls.search_url(RUN)] * times,
        "search, a word that is there": [urls.search_url(RUN, q="redo wait")] * times,
        "search, a word that is not": [urls.search_url(RUN, q=word)] * times,
        "search, kind of error": [urls.search_url(RUN, error_kind="wrong_step")] * times,
        "search, one iteration": [urls.search_url(RUN, q="wait", iteration=one, verdict="wrong") for one in chosen],
        "SQL, the box": [urls.sql_url(RUN)] * times,
        "SQL, one row": [urls.sql_url(RUN, "SELECT * FROM run")] * times,
        "compare, the form": [urls.compare_url()] * times,
    }


@contextmanager
def serving(folder: Path) -> Iterator[int]:
    """The viewer of a folder on a port of loopback, in this process."""
    listener = listening(0)
    server = uvicorn.Server(uvicorn.Config(create_app([folder]), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def seconds_to_first_byte(port: int, address: str) -> tuple[float, float]:
    """From the request to the first byte of the page itself, and the CPU seconds of the whole page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    began, cpu = time.perf_counter(), time.process_time()
    connection.request("GET", address)
    answer = connection.getresponse()
    answer.read(1)
    seconds = time.perf_counter() - began
    rest = answer.read()
    cpu = time.process_time() - cpu
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{address}: {answer.status} {rest[-400:]!r}")
    return seconds, cpu


def measure(folder: Path, run_folder: Path, times: int) -> list[Timed]:
    """Every page, `times` and once more."""
    asked = addresses(run_folder, times + 1)
    with serving(folder) as port:
        found = []
        for name, pages in asked.items():
            seconds, cpu = zip(*(seconds_to_first_byte(port, address) for address in pages), strict=True)
            found.append(Timed(name, seconds[0], seconds[1:], cpu[1:]))
    return found


def main() -> None:
    """Write, serve, ask and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=60, help="mean tokens of a rollout")
    parser.add_argument("--folder", type=Path, help="keep the run in this folder, or use the one that is there")
    parser.add_argument("--times", type=int, default=7, help="how often each page is asked for after the first time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        run_folder = make_run(folder, options.rollouts, options.tokens)
        print(f"{'seconds to first byte':32s} {'first':>8s} {'median':>8s} {'longest':>8s} {'CPU':>8s}")
        for timed in measure(folder, run_folder, options.times):
            figures = (timed.first, timed.median, max(timed.others), statistics.median(timed.cpu))
            print(f"{timed.page:32s} " + " ".join(f"{figure:8.3f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
