"""The presets for Qwen3: they fit, and what they mark as the paper's is the paper's."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tapo_core.cli.main import app
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
PRESETS = sorted(CONFIGS.glob("qwen3_*.toml"))

#: What the paper gives, as numbers (docs/paper_map.md).
PAPER = {
    "run.iterations": 500,
    "model.chat_template_kwargs": {"enable_thinking": False},
    "data.train": "hf:agentica-org/DeepScaleR-Preview-Dataset",
    "sampler.rollouts_per_query": 8,
    "filter.n_pos": 2,
    "filter.n_neg": 4,
    "filter.m_max": 4,
    "token_weight.min_weight": 0.01,
    "token_weight.max_weight": 10.0,
    "update.lambda_constructed": 1.0,
    "update.train_prefix": True,
    "evaluation.samples": 16,
    "zpd.low": 0.125,
    "zpd.high": 0.875,
    "cold_start.n_sft": 30000,
    "cold_start.n_ift": 15000,
}


def marks(file: Path) -> dict[str, str]:
    """What each key of a file is marked as: "paper" or "our choice"."""
    section, found = "", {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        key = re.match(r"(\w+) = ", line)
        comment = re.search(r"# (paper|our choice)\b(: \S.*)?", line)
        if key and comment:
            found[section + key[1]] = comment[1]
            assert comment[1] == "paper" or comment[2], f"{file}: {line}: why?"
    return found


def value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_there_are_three() -> None:
    assert [file.name for file in PRESETS] == ["qwen3_0.6b_single_gpu.toml", "qwen3_8b_grpo.toml", "qwen3_8b_tapo.toml"]


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.name)
def test_what_is_marked_as_the_papers_is(file: Path) -> None:
    tree = tomllib.loads(file.read_text(encoding="utf-8"))
    paper = {key for key, mark in marks(file).items() if mark == "paper"}
    own = {"model.path", "evaluation.datasets.aime24", "evaluation.datasets.aime25", "evaluation.datasets.hmmt25"}
    assert paper - own <= set(PAPER)
    for key in paper - own:
        assert value(tree, key) == PAPER[key], key
    if "8b" in file.name:
        assert paper >= set(PAPER), "all that the paper gives is written out"
    ours = {key for key, mark in marks(file).items() if mark == "our choice"}
    for key in ours & set(PAPER):
        assert value(tree, key) != PAPER[key], f"{key} is the paper's"


def test_the_defaults_that_are_marked_as_the_papers_are_the_same_values() -> None:
    """Every "*paper*: value" in the configuration's texts, against the field's default and the list above."""
    checked = set()
    for section, field in TapoConfig.model_fields.items():
        for name, inner in getattr(field.annotation, "model_fields", {}).items():
            said = re.search(r"\*paper\*: ([\w.]*\w)", inner.description or "")
            if said:
                key = f"{section}.{name}"
                assert str(inner.default).lower() == said[1], key
                assert inner.default == PAPER[key], key
                checked.add(key)
    assert len(checked) >= 12


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.name)
def test_every_key_says_where_it_is_from(file: Path) -> None:
    tree = tomllib.loads(file.read_text(encoding="utf-8"))
    keys = {f"{section}.{name}" for section, part in tree.items() if isinstance(part, dict) for name in part}
    unmarked = (
        keys
        - set(marks(file))
        - {"run.name", "run.seed", "data.columns", "evaluation.datasets", "cluster.trainer_ranks"}
    )
    assert unmarked == set()


def test_grpo_differs_in_method_and_name_alone() -> None:
    tapo, grpo = (load_config(CONFIGS / f"qwen3_8b_{name}.toml").model_dump() for name in ("tapo", "grpo"))
    assert (tapo.pop("method"), grpo.pop("method")) == ("tapo", "grpo")
    assert (tapo["run"].pop("name"), grpo["run"].pop("name")) == ("qwen3-8b-tapo", "qwen3-8b-grpo")
    assert tapo == grpo


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("qwen3_8b_tapo.toml", "--gpu H100-80 --gpus 8 --host-memory-gib 1000 --disk-gib 9000"),
        ("qwen3_8b_grpo.toml", "--gpu H100-80 --gpus 8 --host-memory-gib 1000 --disk-gib 9000"),
        ("qwen3_0.6b_single_gpu.toml", "--gpu L4-24 --gpus 1 --host-memory-gib 32 --disk-gib 600"),
        ("qwen3_0.6b_single_gpu.toml", "--gpu A10-24 --gpus 1 --host-memory-gib 32 --disk-gib 600"),
        ("qwen3_0.6b_single_gpu.toml", "--gpu L40S-48 --gpus 1 --host-memory-gib 32 --disk-gib 600"),
    ],
)
def test_a_preset_fits_where_it_says_it_does(file: str, options: str) -> None:
    done = CliRunner().invoke(app, ["plan", str(CONFIGS / file), *options.split()])
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith("It fits.")
    without = CliRunner().invoke(
        app, ["plan", str(CONFIGS / file), *options.split(), "--set", "update.gradient_checkpointing=false"]
    )
    if "24" in options or "H100" in options:
        assert without.exit_code == 1, "the preset says that it is needed"
