"""A small nano world, and runs of the real flow on it."""

from collections.abc import Callable
from pathlib import Path
from types import MethodType

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
