"""A small nano world, and runs of the real flow on it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from tapo_core.assets import resolve_assets
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config
from tapo_core.engines.hf import load_model
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.model import build_model
from tapo_core.nano.tokenizer import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]

#: A cold start of seconds: a policy that is wrong most of the time, but knows the form of answers and constructions.
NANO = [
    "nano.levels=[1]",
    "nano.steps=120",
    "nano.n_train=40",
    "nano.n_held_out=12",
    "nano.construction_share=0.4",
    "nano.slip_rate=0.2",
    "data.queries_per_iteration=12",
    "sampler.max_new_tokens=48",
    "correction.max_new_tokens=120",
    "evaluation.queries=12",
    "evaluation.samples=2",
    "evaluation.every=0",
    "update.keep_optimizer_states=2",
    # Eligible from the first iteration on, so that constructions are exercised.
    "filter.n_pos=1",
    "filter.n_neg=1",
]

Configure = Callable[..., TapoConfig]


class StopAt:
    """A reporter that interrupts the run when a stage begins, as Ctrl-C does."""

    def __init__(self, iteration: int, stage: str) -> None:
        self.at = (iteration, stage)
        self.seen: list[tuple[int, str]] = []

    def prepare(self, what: str, share: float) -> None: ...
    def note(self, text: str) -> None: ...
    def advance(self, done: int, total: int, unit: str) -> None: ...
    def iteration(self, run_folder: Path, iteration: int) -> None: ...

    def stage(self, iteration: int, stage: str) -> None:
        self.seen.append((iteration, stage))
        if (iteration, stage) == self.at:
            raise KeyboardInterrupt


#: Asks one question after another of a run, until its input ends: that no table lacks, or has too many, of the rows that the
#: commits of the same snapshot say.
_POLL = """
import contextlib, json, sys, threading
from pathlib import Path
from tapo_core.errors import UserError
from tapo_core.store import open_reader

over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
print("ready", flush=True)
n_polls, lengths, torn = 0, [], []
while not over.is_set() or n_polls == 0:
    try:
        connection = open_reader(Path(sys.argv[1]))
    except UserError as error:
        assert not lengths and "no run in" in str(error), error
        continue
    with contextlib.closing(connection):
        counts = [json.loads(row[0]) for row in connection.execute("SELECT row_counts FROM stage_commit").fetchall()]
        for table in sorted({name for commit in counts for name in commit}):
            (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            if rows != sum(commit.get(table, 0) for commit in counts):
                torn.append([table, len(counts), rows])
        connection.execute("SELECT * FROM training_curves").fetchall()
        connection.execute("SELECT * FROM why_in_batch").fetchall()
    n_polls += 1
    lengths.append(len(counts))
print(json.dumps({"n_polls": n_polls, "lengths": lengths, "torn": torn}))
"""


@contextmanager
def polled(run_folder: Path) -> Iterator[dict[str, Any]]:
    """Another process reads the run over and over while the block runs; what it saw is in the dictionary afterwards."""
    with subprocess.Popen(
        [sys.executable, "-c", _POLL, str(run_folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        seen: dict[str, Any] = {}
        try:
            yield seen
        except BaseException:
            child.kill()
            raise
        output, _ = child.communicate()
        assert child.returncode == 0, "the reader failed"
        seen |= json.loads(output)


@pytest.fixture
def configure(nano_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """A function that makes the configuration of a small run: name, then overrides."""
    monkeypatch.setenv("TAPO_CACHE", str(nano_cache))

    def make(name: str, *overrides: str) -> TapoConfig:
        settings = [f"run.name={name}", f"run.output_dir={tmp_path}", "run.iterations=1", *NANO, *overrides]
        config = load_config(ROOT / "configs" / "nano_tapo.toml", settings)
        resolve_assets(config)
        return config

    return make


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    build_model(NanoConfig(n_layers=2, hidden_size=64, ffn_size=64), seed=7).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def double(checkpoint: Path) -> torch.nn.Module:
    """The model in float64 throughout: transformers' norms compute in float32 whatever the weights are."""

    def norm(self: Qwen3RMSNorm, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * hidden / torch.sqrt((hidden * hidden).mean(-1, keepdim=True) + self.variance_epsilon)

    model = load_model(checkpoint, "float32", "cpu").double()
    for module in model.modules():
        if isinstance(module, Qwen3RMSNorm):
            module.forward = MethodType(norm, module)  # type: ignore[method-assign]
    return model
