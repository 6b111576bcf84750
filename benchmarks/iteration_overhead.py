"""What an iteration costs beyond sampling, generation of corrections and gradient work.

    .venv/bin/python benchmarks/iteration_overhead.py [--iterations 5]

Runs the train flow on the built-in model in a temporary folder, times the engines' own calls from outside, and prints the
split for each iteration. "Overhead" is the rest: Prefect,
the store, weight loading, the probe, checkpoints, parsing.
"""

import argparse
import os
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
from tapo_core.config import load_config
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.progress import reporting

ROOT = Path(__file__).resolve().parents[1]


class Split:
    """Seconds by (iteration, kind); a reporter, so that it knows where the run is."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, str], float] = defaultdict(float)
        self.at, self.began = (0, ""), time.perf_counter()

    def prepare(self, what: str, share: float) -> None: ...
    def advance(self, done: int, total: int, unit: str) -> None: ...

    def iteration(self, run_folder: Path, iteration: int) -> None:
        self._close()

    def stage(self, iteration: int, stage: str) -> None:
        self._close()
        self.at = (iteration, stage)

    def _close(self) -> None:
        now = time.perf_counter()
        self.seconds[self.at[0], f"wall {self.at[1]}"] += now - self.began
        self.began = now

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[self.at[0], f"engine {self.at[1]}"] += time.perf_counter() - began

        return run


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=5)
    iterations = parser.parse_args().iterations
    split = Split()
    for engine, names in ((VllmSampler, ("sample",)), (OpenRlhfTrainer, ("score", "update"))):
        for name in names:
            setattr(engine, name, split.timed(getattr(engine, name)))
    with tempfile.TemporaryDirectory() as folder, reporting(split):
        settings = [
            "run.name=overhead",
            f"run.output_dir={folder}",
            f"run.iterations={iterations}",
            "evaluation.every=0",
        ]
        train(load_config(ROOT / "configs" / "nano_tapo.toml", settings))
    print(f"{'iteration':>9} {'wall s':>7} {'sampling':>9} {'corrections':>12} {'update':>7} {'overhead':>9}")
    for iteration in range(1, iterations + 1):
        wall = sum(
            seconds
            for (at, kind), seconds in split.seconds.items()
            if at == iteration and kind.startswith("wall") and kind != "wall evaluate"
        )
        parts = [split.seconds[iteration, f"engine {s}"] for s in ("sample", "diagnose_and_correct", "update_policy")]
        print(f"{iteration:9d} {wall:7.2f} {parts[0]:9.2f} {parts[1]:12.2f} {parts[2]:7.2f} {wall - sum(parts):9.2f}")


if __name__ == "__main__":
    main()
