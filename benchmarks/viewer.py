"""Time to first byte of every page of the viewer, on a synthetic run of any size.

    .venv/bin/python benchmarks/viewer.py [--rollouts 1000000] [--tokens 60] [--folder FOLDER]

Commits the stages of a run through `StoreWriter` (a quarter of an hour for a million rollouts; a FOLDER that has them already is used
again), serves it as `tapo view` does, and asks for each page over HTTP: the first time, and the median of several. A page is asked
for different iterations and trajectories each time, so that no snapshot is there already.
"""

import argparse
import http.client
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from synthetic_run import GROUP_SIZE, SyntheticRun, commit

from tapo_core.store import open_reader
from tapo_core.store.connection import ledger_path
from tapo_core.viewer import urls
from tapo_core.viewer.app import create_app

N_GROUPS = 250  #: in an iteration, of 8 rollouts each
RUN = "synthetic"


def n_iterations(rollouts: int) -> int:
    """How many iterations have so many rollouts."""
    return max(1, rollouts // (N_GROUPS * GROUP_SIZE))


def make_run(folder: Path, rollouts: int, tokens: int) -> None:
    """Commit a synthetic run; how far it is, is printed now and then."""
    run = SyntheticRun(tokens)
    commit(folder, 0, "start", run.start())
    for iteration in range(1, n_iterations(rollouts) + 1):
        for stage, records in run.stages(iteration, N_GROUPS):
            commit(folder, iteration, stage, records)
        if iteration % 50 == 0:
            print(f"{iteration * N_GROUPS * GROUP_SIZE} rollouts", flush=True)


if __name__ == "__main__":
    make_run(Path(sys.argv[1]), 1_000_000, 60)
