"""What an iteration costs beyond sampling, generation of corrections and gradient work.

    .venv/bin/python benchmarks/iteration_overhead.py [--iterations 5]

Runs the train flow on the built-in model in a temporary folder, times calls from outside, and prints the split of each iteration
in seconds. "Overhead" is the wall time less the engines' own calls; its parts are the store (commits and reads), weights (reload
and probe, the probe's sampling apart), publishing (checkpoints and their digests), and the rest (Prefect, parsing, records).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from tapo_core.engines.environment import prepare_environment

prepare_environment()

from flows.train import train
from tapo_core.config_file import load_config
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.progress import reporting
from tapo_core.session import Session
from tapo_core.stages import update_policy

ROOT = Path(__file__).resolve().parents[1]


#: What is timed, and as what. Time within an inner call counts for the inner one alone.
TIMED = (
    (VllmSampler, "sample", "engine"),
    (OpenRlhfTrainer, "score", "engine"),
    (OpenRlhfTrainer, "update", "engine"),
    (Session, "commit", "store"),
    (Session, "load", "store"),
    (Session, "find_commit", "store"),
    (Session, "sampler_at", "weights"),
    (OpenRlhfTrainer, "publish", "publish"),
    (update_policy, "tree_digest", "publish"),
)
STAGES = ("sample", "verify", "locate_error", "diagnose_and_correct", "filter_by_difficulty", "update_policy")


class Split:
    """Seconds by (iteration, stage, kind); a reporter, so that it knows where the run is."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, str, str], float] = defaultdict(float)
        self.wall: dict[int, float] = defaultdict(float)
        self.stage_wall: dict[tuple[int, str], float] = defaultdict(float)
        self._at, self._began = (0, ""), time.perf_counter()
        self._inner = 0.0

    def prepare(self, what: str, share: float) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, done: int, total: int, unit: str) -> None: ...

    def iteration(self, run_folder: Path, iteration: int) -> None:
        self._close()

    def stage(self, iteration: int, stage: str) -> None:
        self._close()
        self._at = (iteration, stage)

    def _close(self) -> None:
        now = time.perf_counter()
        if self._at[1] != "evaluate":
            self.wall[self._at[0]] += now - self._began
        self.stage_wall[self._at] += now - self._began
        self._began = now

    def timed(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began, outer, self._inner = time.perf_counter(), self._inner, 0.0
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - began
                self.seconds[(*self._at, kind)] += spent - self._inner
                self._inner = outer + spent

        return run

    def watch(self) -> None:
        """Time what is in TIMED from now on, in this process."""
        for owner, name, kind in TIMED:
            setattr(owner, name, self.timed(getattr(owner, name), kind))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=5)
    iterations = parser.parse_args().iterations
    split = Split()
    split.watch()
    with tempfile.TemporaryDirectory() as folder, reporting(split):
        settings = [
            "run.name=overhead",
            f"run.output_dir={folder}",
            f"run.iterations={iterations}",
            "evaluation.every=0",
        ]
        train(load_config(ROOT / "configs" / "nano_tapo.toml", settings))
    engines = ("sample", "diagnose_and_correct", "update_policy")
    parts = ("store", "weights", "publish")
    print(
        f"{'iteration':>9} {'wall':>6} | {'sampling':>9} {'corrections':>12} {'update':>7} | {'overhead':>9} =", end=""
    )
    print("".join(f"{name:>9}" for name in (*parts, "rest")))
    overheads = []
    for iteration in range(1, iterations + 1):
        wall = split.wall[iteration]
        engine = [split.seconds[iteration, stage, "engine"] for stage in engines]
        part = [sum(split.seconds[iteration, stage, name] for stage in STAGES) for name in parts]
        overhead = wall - sum(engine)
        print(
            f"{iteration:9d} {wall:6.2f} | {engine[0]:9.2f} {engine[1]:12.2f} {engine[2]:7.2f} | {overhead:9.2f}  ",
            end="",
        )
        print("".join(f"{seconds:9.2f}" for seconds in (*part, overhead - sum(part))))
        overheads.append(overhead)
    if len(overheads) > 1:
        print(f"median overhead after the first iteration: {statistics.median(overheads[1:]):.2f} s")


if __name__ == "__main__":
    main()
