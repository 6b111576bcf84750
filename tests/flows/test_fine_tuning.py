"""Supervised fine-tuning on OpenRLHF against an independent slow reference: plain loops, float64, one token at a time."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tapo_core.config import SftConfig
from tapo_core.config_update import UpdateConfig
from tapo_core.engines.hf import load_model
from tapo_core.engines.openrlhf_sft import OpenRlhfFineTuner
from tapo_core.engines.protocols import PolicyRef, StepMetrics, TrainingExample
from tapo_core.nano.tokenizer import VOCAB_SIZE
from tests.flows.conftest import double

RATE = 1e-3


def made_up_examples(n: int) -> list[TrainingExample]:
    """Examples of uneven lengths, so that a mean over micro-batches or over sequences would be another number."""
    rng = random.Random(3)
    sizes = [(rng.randint(1, 9), rng.randint(1, 12)) for _ in range(n)]
    return [TrainingExample(*([rng.randrange(VOCAB_SIZE) for _ in range(size)] for size in both)) for both in sizes]


def reference_loss(model: torch.nn.Module, examples: Sequence[TrainingExample]) -> torch.Tensor:
    """Mean over all completion tokens of -log p(token | what is before it), nats; prompts have no loss."""
    terms = []
    for example in examples:
        ids = [*example.prompt_token_ids, *example.token_ids_T]
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        for t in range(len(example.prompt_token_ids), len(ids)):
            terms.append(torch.logsumexp(logits[t - 1], dim=0) - logits[t - 1, ids[t]])
    return sum(terms[1:], start=terms[0]) / len(terms)


def reference_rate(step: int, n_steps: int, config: SftConfig) -> float:
    """The learning rate of a 0-based step: linear warm-up from one share, then constant, or a cosine that would end at 0
    one step after the last."""
    if step + 1 < config.warmup_steps:
        return RATE * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return RATE
    done = (step + 1 - config.warmup_steps) / (n_steps + 1 - config.warmup_steps)
    return RATE * 0.5 * (1 + math.cos(math.pi * done))


def tune(
    checkpoint: Path, examples: Sequence[TrainingExample], folder: Path, config: SftConfig, adam: UpdateConfig
) -> tuple[list[StepMetrics], dict[str, torch.Tensor]]:
    """The steps' reports, and the published weights."""
    tuner = OpenRlhfFineTuner(config, adam, "float32", seed=0)
    steps = tuner.fine_tune(PolicyRef("p", checkpoint), examples, seed=5)
    tuner.publish(folder)
    tuner.close()
    assert [path.name for path in folder.iterdir()] == ["hf"]
    return steps, load_model(folder / "hf", "float32", "cpu").state_dict()


@pytest.mark.parametrize("keys", [
    {"epochs": 1, "batch_size": 12, "warmup_steps": 0, "schedule": "constant"},
    {"epochs": 2, "batch_size": 5, "warmup_steps": 3, "max_grad_norm": 0.5},
    {"epochs": 3, "batch_size": 12, "warmup_steps": 2, "schedule": "constant"},
])  # fmt: skip
def test_openrlhf_takes_the_same_steps_as_the_reference(
    checkpoint: Path, tmp_path: Path, keys: dict[str, object]
) -> None:
    config = SftConfig.model_validate({"learning_rate": RATE, "micro_batch_tokens": 40, **keys})
    adam = UpdateConfig(weight_decay=0.1, learning_rate=7.0)  # its own rate must not be taken
    examples = made_up_examples(12)
    steps, weights = tune(checkpoint, examples, tmp_path / "out", config, adam)

    model = double(checkpoint)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=adam.adam_betas, eps=1e-8)
    chunks = []
    for epoch in range(config.epochs):
        order = list(range(len(examples)))
        random.Random(f"5/{epoch}").shuffle(order)
        chunks += [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    assert len(steps) == len(chunks)
    for number, (chunk, step) in enumerate(zip(chunks, steps, strict=True)):
        optimizer.zero_grad()
        loss = reference_loss(model, [examples[i] for i in chunk])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        rate = reference_rate(number, len(chunks), config)
        assert step.values["loss"] == pytest.approx(loss.item(), abs=1e-5)
        assert step.values["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert step.values["learning_rate"] == pytest.approx(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    ours = torch.cat([(weights[name].double() - before[name]).flatten() for name in before])
    theirs = torch.cat([(p.detach() - before[name]).flatten() for name, p in model.named_parameters()])
    assert float(theirs.norm()) > 0.1
    # Adam divides a gradient by its own size: where that is next to nothing, the last bit decides the sign.
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-3


def test_micro_batches_do_not_change_the_gradient(checkpoint: Path, tmp_path: Path) -> None:
    examples, reports = made_up_examples(16), []
    for tokens in (10_000, 48, 1):
        keys = {"learning_rate": RATE, "epochs": 1, "batch_size": 16, "micro_batch_tokens": tokens}
        config = SftConfig.model_validate(keys)
        steps, _ = tune(checkpoint, examples, tmp_path / str(tokens), config, UpdateConfig())
        reports.append(steps[0].values)
    whole, *parts = reports
    for part in parts:
        assert part["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert part["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


def test_the_loss_falls_and_the_same_again_is_the_same(checkpoint: Path, tmp_path: Path) -> None:
    config = SftConfig(learning_rate=5e-3, epochs=12, batch_size=8, warmup_steps=2)
    examples = made_up_examples(16)
    first, weights = tune(checkpoint, examples, tmp_path / "first", config, UpdateConfig())
    assert first[-1].values["loss"] < 0.5 * first[0].values["loss"]
    again, others = tune(checkpoint, examples, tmp_path / "again", config, UpdateConfig())
    assert [step.values for step in again] == [step.values for step in first]
    assert all(torch.equal(weights[name], others[name]) for name in weights)
