"""How a run's store grows: bytes a trajectory, seconds a commit, an opening and a lineage, at several sizes of one run.

    .venv/bin/python benchmarks/store_growth.py [--rollouts 10000 100000 300000] [--tokens 60] [--groups 250] [--folder FOLDER]

One synthetic run (`synthetic_run.py`) grows through the sizes given; a trajectory is a rollout or a constructed trajectory.
Seconds a commit are the median over the commits of the last ten iterations before a size is reached, with all that they wait for:
checks, digests, fsync, CHECKPOINT. Drawing the rows is not timed. The last lines go on to 10^8 trajectories in a straight line
through the last two sizes: extrapolated, not measured. Needs 3 KB of disk a rollout at 60 tokens, 30 KB at 1000.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from store_baselines import size_of
from synthetic_run import GROUP_SIZE, SyntheticRun, commit

from tapo_core.store import lineage, open_reader
from tapo_core.store.connection import database_path, ledger_path, published_folder

GOAL = 10**8
_LAST = 10  #: iterations whose commits are timed


@dataclass(frozen=True, slots=True)
class Point:
    """The store at one size. Sizes in bytes."""

    trajectories: int
    commits: int
    files: int
    database: int
    published: int
    ledger: int
    commit_seconds: float
    iteration_seconds: float
    open_seconds: float
    lineage_seconds: float
    scan_seconds: float

    @property
    def bytes_each(self) -> float:
        """Of a trajectory, database and published files together."""
        return (self.database + self.published) / self.trajectories


def measure(folder: Path, commits: list[float], iterations: list[float], times: int = 5) -> Point:
    """One size of the run."""
    opens, traces, scans = [], [], []
    with open_reader(folder) as connection:
        subjects = [
            str(row[0]) for row in connection.execute("SELECT subject_id FROM token_weight ORDER BY 1").fetchall()
        ]
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM rollout) + (SELECT count(*) FROM correction WHERE constructed_text IS NOT NULL), "
            "(SELECT count(*) FROM stage_commit)"
        ).fetchone()
    assert counted is not None
    for subject in random.Random(0).sample(subjects, times):
        began = time.perf_counter()
        lineage(folder, subject)
        traces.append(time.perf_counter() - began)
        began = time.perf_counter()
        with open_reader(folder) as connection:
            opens.append(time.perf_counter() - began)
            began = time.perf_counter()
            connection.execute("SELECT * FROM iteration_summary").fetchall()
            scans.append(time.perf_counter() - began)
    published = published_folder(folder)
    return Point(
        trajectories=counted[0],
        commits=counted[1],
        files=sum(1 for _ in published.rglob("*.parquet")),
        database=database_path(folder).stat().st_size,
        published=size_of(published),
        ledger=ledger_path(folder).stat().st_size,
        commit_seconds=statistics.median(commits),
        iteration_seconds=statistics.median(iterations),
        open_seconds=statistics.median(opens),
        lineage_seconds=statistics.median(traces),
        scan_seconds=statistics.median(scans),
    )


def line(first: Point, last: Point, of: str) -> tuple[float, float]:
    """A value at `GOAL` trajectories on the straight line through two sizes, and how much a million more trajectories add."""
    slope = (getattr(last, of) - getattr(first, of)) / (last.trajectories - first.trajectories)
    return getattr(last, of) + slope * (GOAL - last.trajectories), slope * 1e6


def show(point: Point) -> None:
    """One row of the table."""
    sizes = f"{point.database / 1e6:9.0f} {point.published / 1e6:10.0f} {point.bytes_each:10.0f}"
    times = f"{point.commit_seconds:9.3f} {point.iteration_seconds:10.2f} {point.open_seconds:8.2f}"
    times += f" {point.lineage_seconds:8.2f} {point.scan_seconds:8.2f}"
    print(f"{point.trajectories:12,d} {point.commits:8d} {point.files:8d} {sizes} {times}", flush=True)


def main() -> None:
    """Grow, measure, extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[10_000, 100_000, 300_000])
    parser.add_argument("--tokens", type=int, default=60, help="mean tokens of a rollout")
    parser.add_argument(
        "--groups", type=int, default=250, help=f"queries of an iteration, of {GROUP_SIZE} rollouts each"
    )
    parser.add_argument("--folder", type=Path, help="keep the run in this new folder")
    options = parser.parse_args()
    print(
        f"{'trajectories':>12s} {'commits':>8s} {'files':>8s} {'database':>9s} {'published':>10s} {'bytes each':>10s} "
        f"{'s/commit':>9s} {'s/iter':>10s} {'opening':>8s} {'lineage':>8s} {'summary':>8s}    (MB, s)"
    )
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=options.folder is None)
        run = SyntheticRun(options.tokens, n_queries=max(4096, options.groups))
        commit(folder, 0, "start", run.start())
        timed: deque[list[float]] = deque(maxlen=_LAST)
        iteration = 0
        for size in sorted(options.rollouts):
            while iteration * options.groups * GROUP_SIZE < size:
                iteration += 1
                seconds = []
                for stage, records in run.stages(iteration, options.groups):
                    began = time.perf_counter()
                    commit(folder, iteration, stage, records)
                    seconds.append(time.perf_counter() - began)
                timed.append(seconds)
            points.append(measure(folder, [one for each in timed for one in each], [sum(each) for each in timed]))
            show(points[-1])
    if len(points) < 2:
        return
    print(f"\nextrapolated to {GOAL:,d} trajectories, on the line through the last two sizes (per million more):")
    for of, unit, scale in (
        ("database", "GB", 1e9),
        ("published", "GB", 1e9),
        ("ledger", "GB", 1e9),
        ("commits", "thousand", 1e3),
        ("files", "thousand", 1e3),
        ("commit_seconds", "s", 1.0),
        ("iteration_seconds", "s", 1.0),
        ("open_seconds", "s", 1.0),
        ("lineage_seconds", "s", 1.0),
        ("scan_seconds", "s", 1.0),
    ):
        there, more = line(points[-2], points[-1], of)
        told = f"{there / scale:12.3f} {unit} ({more / scale:+.4f})" if more > 0 else "no growth between the two"
        print(f"  {of:18s} {told}")


if __name__ == "__main__":
    main()
