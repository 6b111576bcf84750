"""The store at size: a synthetic run of a million rollouts, beside SQLite, plain Parquet and JSON lines with pandas.

    .venv/bin/python benchmarks/store.py [--rollouts 1000000] [--tokens 60] [--folder FOLDER]

Commits the stages of a run through `StoreWriter` and writes the same records into each baseline; prints rates, sizes, the cost a
row as the run grows (CPU seconds too, which other work on the machine moves less), the times of twenty questions, each asked
of all four (their answers are compared), and of the lineage of single trajectories. Drawing the rows is not timed.
Needs about 19 KB of disk a rollout at 60 tokens, and memory for pandas; most of an hour for a million rollouts.
"""

import argparse
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from store_baselines import Answer, JsonLines, PlainParquet, Rows, Sqlite, by_table, size_of
from store_questions import QUESTIONS, Question
from synthetic_run import GROUP_SIZE, SyntheticRun, commit

from tapo_core.store import Record, lineage, open_reader, verified_commits
from tapo_core.store.connection import database_path, published_folder

N_GROUPS = 250  #: in an iteration, of 8 rollouts each


class Store:
    """The store itself."""

    name = "TAPO"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.iteration, self.stage = 0, "start"

    def write(self, rows: Rows) -> None:
        """A commit: checked, digested, chained, fsynced, published."""
        commit(self.folder, self.iteration, self.stage, [record for records in rows.values() for record in records])

    def finish(self) -> None:
        """Nothing is left to do."""

    def ask(self, question: Question, ids: Mapping[str, str]) -> Answer:
        """As ``tapo sql`` asks: on a snapshot that is opened for the question."""
        with open_reader(self.folder) as connection:
            return connection.execute(question.sql.format(**ids)).fetchall()


class Clock:
    """Seconds, and CPU seconds of this process with its threads."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def add(self, work: Callable[[Any], object], rows: Any) -> None:
        """Time one piece of work."""
        wall, cpu = time.perf_counter(), time.process_time()
        work(rows)
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def ingest(systems: list[Any], run: SyntheticRun, n_iterations: int, n_groups: int = N_GROUPS) -> dict[str, Clock]:
    """Write everything into every system. Prints the store's cost a rollout in ten slices of the run."""
    size = n_groups * GROUP_SIZE
    clocks = {system.name: Clock() for system in systems}
    begin = [("start", run.start())]
    slice_size = max(1, n_iterations // 10)
    seen = Clock()
    print(f"{'rollouts':>10s} {'ms a rollout':>13s} {'CPU ms':>8s}")
    for iteration in range(n_iterations + 1):
        stages: list[tuple[str, list[Record]]] = list(run.stages(iteration, n_groups)) if iteration else begin
        for stage, records in stages:
            rows = by_table(records)
            for system in systems:
                if isinstance(system, Store):
                    system.iteration, system.stage = iteration, stage
                clocks[system.name].add(system.write, rows)
        if iteration and (iteration % slice_size == 0 or iteration * size == 10_000):
            now = clocks["TAPO"]
            n = (iteration % slice_size or slice_size) * size
            wall, cpu = 1000 * (now.wall - seen.wall) / n, 1000 * (now.cpu - seen.cpu) / n
            print(f"{iteration * size:10,d} {wall:13.3f} {cpu:8.3f}", flush=True)
            if iteration % slice_size == 0:
                seen = Clock()
                seen.wall, seen.cpu = now.wall, now.cpu
    return clocks


def time_growth(folder: Path, small: Path, n_tokens: int, times: int = 5) -> None:
    """The same iterations, one after the other, into a large store and into a small one: what size alone costs."""
    last = max(commit.iteration for commit in verified_commits(folder))
    runs = [(folder, SyntheticRun(n_tokens), last), (small, SyntheticRun(n_tokens), 0)]
    for place, run, first in runs:
        if first == 0:
            commit(place, 0, "start", run.start())
        run.reseed(last)
    ratios: dict[str, list[float]] = {"wall": [], "CPU": []}
    for number in range(1, times + 2):
        clocks = [Clock(), Clock()]
        for clock, (place, run, first) in zip(clocks, runs, strict=True):
            for stage, records in run.stages(first + number, N_GROUPS):
                clock.add(lambda records, at=(place, first + number, stage): commit(*at, records), records)  # type: ignore[misc]
        if number > 1:  # the first iteration of a new store makes its first blocks
            ratios["wall"].append(clocks[0].wall / clocks[1].wall)
            ratios["CPU"].append(clocks[0].cpu / clocks[1].cpu)
    told = ", ".join(f"{name} {statistics.median(values):.2f}" for name, values in ratios.items())
    print(f"an iteration into this store beside the same into a new one, median of {times} ratios: {told}")


def make_systems(folder: Path) -> list[Any]:
    """The store and its baselines, each in a new folder of its own."""
    systems = []
    for kind in (Store, Sqlite, PlainParquet, JsonLines):
        (folder / kind.__name__).mkdir(parents=True)
        systems.append(kind(folder / kind.__name__))
    return systems


def same(one: Answer, other: Answer) -> bool:
    """Whether two systems gave the same answer: numbers up to rounding, ids and enums as text, unknown numbers as nothing."""
    return len(one) == len(other) and all(
        _same_value(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def _same_value(one: Any, other: Any) -> bool:
    missing = [value is None or value != value for value in (one, other)]
    if any(missing):
        return all(missing)
    if isinstance(one, str) or isinstance(other, str) or not isinstance(one, int | float):
        return str(one) == str(other)
    return math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-9)


def ask_all(systems: list[Any], ids: Mapping[str, str]) -> int:
    """Time the twenty questions. Returns how many answers differ from the store's."""
    print(f"\n{'seconds':35s}" + "".join(f"{system.name:>14s}" for system in systems))
    totals = dict.fromkeys((system.name for system in systems), 0.0)
    n_different = 0
    for number, question in enumerate(QUESTIONS, start=1):
        cells, first = [], None
        for system in systems:
            began = time.perf_counter()
            answer = system.ask(question, ids)
            seconds = time.perf_counter() - began
            totals[system.name] += seconds
            first = answer if first is None else first
            agrees = same(first, answer)
            n_different += not agrees
            cells.append(f"{seconds:13.3f}{' ' if agrees else '!'}")
        print(f"{number:2d} {question.name:32s}" + "".join(cells), flush=True)
    print(f"{'all twenty':35s}" + "".join(f"{totals[system.name]:13.3f} " for system in systems))
    if n_different:
        print(f"! {n_different} answers differ from the store's")
    return n_different


def time_lineage(run: Path, ids: list[str]) -> None:
    """The lineage of single trajectories, each in a snapshot of its own."""
    seconds, edges = [], []
    for subject in ids:
        began = time.perf_counter()
        found = lineage(run, subject)
        seconds.append(time.perf_counter() - began)
        edges.append(len(found.ancestors) + len(found.descendants))
    print(
        f"\nlineage of one trajectory: median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s "
        f"({len(ids)} of them, {min(edges)} to {max(edges)} steps)"
    )


def main() -> int:
    """Write, print, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=60, help="mean tokens of a rollout")
    parser.add_argument("--folder", type=Path, help="keep the files in this new folder")
    options = parser.parse_args()
    n_iterations = max(1, options.rollouts // (N_GROUPS * GROUP_SIZE))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        systems = make_systems(folder)
        clocks = ingest(systems, SyntheticRun(options.tokens), n_iterations)
        n = n_iterations * N_GROUPS * GROUP_SIZE
        print(f"\n{'':14s} {'rollouts/s':>11s} {'MB':>8s} {'load, s':>8s}")
        for system in systems:
            began = time.perf_counter()
            system.finish()
            load = time.perf_counter() - began
            size = size_of(system.folder) / 1e6
            print(f"{system.name:14s} {n / clocks[system.name].wall:11.0f} {size:8.0f} {load:8.1f}", flush=True)
        run = systems[0].folder
        database, published = database_path(run).stat().st_size / 1e6, size_of(published_folder(run)) / 1e6
        print(f"(TAPO: database {database:.0f} MB, published Parquet {published:.0f} MB)")
        with open_reader(run) as connection:
            every = [
                str(row[0]) for row in connection.execute("SELECT subject_id FROM token_weight ORDER BY 1").fetchall()
            ]
            (query,) = connection.execute("SELECT min(query_id) FROM rollout WHERE iteration = 1").fetchone() or ("",)
        chosen = random.Random(0).sample(every, 9)
        n_different = ask_all(systems, {"subject": chosen[0], "query": str(query)})
        time_lineage(run, chosen)
        time_growth(run, folder / "small", options.tokens)
    return min(n_different, 1)


if __name__ == "__main__":
    sys.exit(main())
