"""What spares memory in training: checkpointing, LoRA, bfloat16, ZeRO and offloading, each by a real update on the nano model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tapo_core.config import TokenWeightConfig
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.engines.hf import load_model
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.protocols import PolicyRef, StepMetrics, TrainingTrajectory
from tapo_core.engines.scoring import response_logprobs
from tapo_core.errors import UserError
from tapo_core.ids import tree_digest
from tests.flows.test_update_step import TEMPERATURE, made_up_trajectories

LORA = {"lora_rank": 4, "learning_rate": 1e-2}


class Updates:
    """Two updates in one process, and the second once more by a trainer that resumes after the first."""

    def __init__(self, checkpoint: Path, folder: Path, dtype: str = "float32", **keys: Any) -> None:
        settings = {"learning_rate": 1e-3, "warmup_steps": 0, "micro_batch_tokens": 48, **keys}
        self.config = UpdateConfig.model_validate(settings)
        self.dtype, self.checkpoint, self.folder = dtype, checkpoint, folder
        self.trajectories = made_up_trajectories(checkpoint, 9)

    def trainer(self) -> OpenRlhfTrainer:
        return OpenRlhfTrainer(
            self.config, TokenWeightConfig(), self.dtype, TEMPERATURE, 0, self.checkpoint, OffPolicyConfig()
        )

    def run(self) -> None:
        trainer = self.trainer()
        trainer.load_policy(PolicyRef("p0", self.checkpoint))
        self.first = self.step(trainer, 1)
        self.own = [s.logprobs_T for s in trainer.score(*self.texts)]
        self.trainable = [n for n, p in trainer._actor.model.module.named_parameters() if p.requires_grad]
        self.second = self.step(trainer, 2)
        trainer.close()

    def resume(self) -> tuple[StepMetrics, str]:
        trainer = self.trainer()
        state = self.folder / "1" / "deepspeed"
        trainer.load_policy(PolicyRef("p1", self.folder / "1" / "hf", state, tree_digest(state)))
        metrics = self.step(trainer, 2, "again")
        trainer.close()
        return metrics, tree_digest(self.folder / "again" / "hf")

    def step(self, trainer: OpenRlhfTrainer, number: int, name: str | None = None) -> StepMetrics:
        (metrics,) = trainer.update(self.trajectories, seed=number).steps
        trainer.publish(self.folder / (name or str(number)), f"p{number}")
        return metrics

    @property
    def texts(self) -> tuple[list[list[int]], list[list[int]]]:
        rows: list[TrainingTrajectory] = self.trajectories
        return [t.prompt_token_ids for t in rows], [t.response_token_ids_T for t in rows]

    def published(self) -> list[list[float]]:
        model = load_model(self.folder / "1" / "hf", self.dtype, "cpu")
        return response_logprobs(model, *self.texts, TEMPERATURE)


def furthest(a: list[list[float]], b: list[list[float]]) -> float:
    return max(abs(x - y) for row, other in zip(a, b, strict=True) for x, y in zip(row, other, strict=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in load_model(folder, "float32", "cpu").named_parameters()}


CASES = [
    ("float32", {"zero_stage": 2, "offload": "optimizer"}),
    ("float32", LORA),
    ("bfloat16", {}),
    ("bfloat16", {"zero_stage": 2}),
    *(
        pytest.param(dtype, {"zero_stage": stage, **keys}, marks=pytest.mark.slow)
        for stage in (1, 2, 3)
        for dtype in ("float32", "bfloat16")
        for keys in ({}, LORA, {**LORA, "gradient_checkpointing": True, "offload": "optimizer"})
    ),
]


@pytest.mark.parametrize(("dtype", "keys"), CASES)
def test_an_update_moves_the_policy_is_published_and_resumes_exactly(
    checkpoint: Path, tmp_path: Path, dtype: str, keys: dict[str, Any]
) -> None:
    updates = Updates(checkpoint, tmp_path, dtype, **keys)
    updates.run()
    assert all(math.isfinite(value) for value in updates.first.values.values())
    assert updates.first.values["grad_norm"] > 0.0
    published = updates.published()
    assert furthest(published, updates.own) <= (1e-5 if dtype == "float32" else 0.3)
    before = response_logprobs(load_model(checkpoint, dtype, "cpu"), *updates.texts, TEMPERATURE)
    assert furthest(published, before) > 1e-3
    files = {path.name for path in (tmp_path / "1" / "hf").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= files
    assert not any("adapter" in name or name.endswith(".bin") for name in files)
    assert updates.resume() == (updates.second, tree_digest(tmp_path / "2" / "hf"))


@pytest.mark.parametrize("keys", [{}, {"zero_stage": 2}, {"warmup_steps": 4}])
def test_a_revised_rate_takes_effect_on_the_state_of_before(
    checkpoint: Path, tmp_path: Path, keys: dict[str, Any]
) -> None:
    """Adam's step is proportional to the rate: ten times the rate, from the same state and gradient, is ten times the step."""
    updates = Updates(checkpoint, tmp_path, **keys)
    updates.run()
    start, plain = (weights(tmp_path / name / "hf") for name in ("1", "2"))
    revised = {"learning_rate": 1e-2, "adam_betas": (0.9, 0.95)}
    updates.config = updates.config.model_copy(update=revised)
    metrics, _ = updates.resume()
    faster = weights(tmp_path / "again" / "hf")
    shape = 2 / 4 if "warmup_steps" in keys else 1.0  # the second of four steps of warm-up
    assert metrics.values["learning_rate"] == pytest.approx(1e-2 * shape)
    assert updates.second.values["learning_rate"] == pytest.approx(1e-3 * shape)
    moved = 0.0
    for name, value in start.items():
        torch.testing.assert_close(faster[name] - value, 10 * (plain[name] - value), rtol=0, atol=2e-5)
        moved = max(moved, float((faster[name] - value).abs().max()))
    assert moved > 1e-3
    updates.config = updates.config.model_copy(
        update={"adam_betas": (0.0, 0.95), "weight_decay": 0.5, "warmup_steps": 0}
    )
    updates.resume()
    assert any(not torch.equal(faster[name], v) for name, v in weights(tmp_path / "again" / "hf").items())
    trainer = updates.trainer()
    state = tmp_path / "1" / "deepspeed"
    trainer.load_policy(PolicyRef("p1", tmp_path / "1" / "hf", state, tree_digest(state)))
    groups = trainer._optimizer.param_groups
    assert {tuple(group["betas"]) for group in groups} == {(0.0, 0.95)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}
    assert {group["lr"] for group in groups} == {1e-2}
    trainer.close()


@pytest.mark.parametrize(("written", "wanted"), [(0, 2), (2, 0), (2, 1), (2, 3), (3, 2)])
def test_an_optimizer_state_that_a_zero_stage_keeps_in_another_form_is_refused(
    checkpoint: Path, tmp_path: Path, written: int, wanted: int
) -> None:
    updates = Updates(checkpoint, tmp_path, zero_stage=written)
    trainer = updates.trainer()
    trainer.load_policy(PolicyRef("p0", checkpoint))
    updates.step(trainer, 1)
    trainer.close()
    updates.config = updates.config.model_copy(update={"zero_stage": wanted})
    if {written, wanted} == {1, 2}:
        updates.resume()
        return
    with pytest.raises(
        UserError, match=rf"written with update\.zero_stage = .*, and {wanted} keeps it in another form"
    ):
        updates.resume()


def test_only_adapters_are_trained(checkpoint: Path, tmp_path: Path) -> None:
    updates = Updates(checkpoint, tmp_path, **{**LORA, "lora_targets": ["q_proj", "down_proj"]})
    updates.run()
    assert updates.trainable
    assert all(".lora_" in name for name in updates.trainable)
    old, new = weights(checkpoint), weights(tmp_path / "1" / "hf")
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if "q_proj.weight" in name or "down_proj.weight" in name}
    assert all(torch.linalg.matrix_rank(new[n] - old[n], rtol=1e-3) <= 4 for n in changed)


def test_checkpointing_does_not_change_the_update(checkpoint: Path, tmp_path: Path) -> None:
    found = []
    for flag in (False, True):
        updates = Updates(checkpoint, tmp_path / str(flag), gradient_checkpointing=flag, score_chunk_tokens=7)
        updates.run()
        found.append((updates.first.values, weights(tmp_path / str(flag) / "1" / "hf")))
    (plain, before), (spared, after) = found
    assert spared == pytest.approx(plain, rel=1e-5, abs=1e-5)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-5)


def test_layers_that_are_not_there_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    updates = Updates(checkpoint, tmp_path, lora_rank=2, lora_targets=["query_key_value"])
    with pytest.raises(UserError, match=r"update\.lora_targets"):
        updates.run()


@pytest.mark.parametrize("keys", [{"offload": "optimizer"}, {"lora_targets": ["lm_head"]}, {"lora_targets": []}])
def test_what_cannot_be_is_refused_at_once(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"update\.(offload|lora_targets)"):
        UpdateConfig.model_validate(keys)
