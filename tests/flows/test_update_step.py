"""The update step on OpenRLHF against an independent slow reference: plain loops, float64, one trajectory at a time.

The reference's own gradient is checked against finite differences, so that both ends are tied down.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapo_core.config import TokenWeightConfig
from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
from tapo_core.engines.protocols import PolicyRef, TrainingTrajectory
from tapo_core.nano.tokenizer import VOCAB_SIZE
from tapo_core.records import AdvantageGroup
from tests.flows.conftest import double

TEMPERATURE = 0.8
RATE = 1e-3


def logprobs_of(model: torch.nn.Module, trajectory: TrainingTrajectory) -> list[torch.Tensor]:
    """log p of each response token at the temperature, one by one."""
    ids = [*trajectory.prompt_token_ids, *trajectory.response_token_ids_T]
    logits = model(input_ids=torch.tensor([ids])).logits[0] / TEMPERATURE
    first = len(trajectory.prompt_token_ids)
    return [logits[t - 1, ids[t]] - torch.logsumexp(logits[t - 1], dim=0) for t in range(first, len(ids))]


def weights_of(model: torch.nn.Module, trajectory: TrainingTrajectory) -> list[float]:
    """clamp(exp(log p + H), 0.01, 10) of each response token under a model."""
    ids = [*trajectory.prompt_token_ids, *trajectory.response_token_ids_T]
    first = len(trajectory.prompt_token_ids)
    weights = []
    with torch.no_grad():
        probabilities = torch.softmax(model(input_ids=torch.tensor([ids])).logits[0] / TEMPERATURE, dim=-1)
        for t in range(first, len(ids)):
            p = probabilities[t - 1]
            entropy = -sum(float(q) * math.log(float(q)) for q in p)
            weights.append(min(10.0, max(0.01, float(p[ids[t]]) * math.exp(entropy))))
    return weights


def correction_of(trajectory: TrainingTrajectory, config: OffPolicyConfig) -> list[float]:
    """The importance weight of each response token, from the definition of each scheme."""
    if config.correction == "off" or trajectory.sampled_logprobs_T is None:
        return [1.0] * len(trajectory.old_logprobs_T)
    both = zip(trajectory.old_logprobs_T, trajectory.sampled_logprobs_T, strict=True)
    ratios = [math.exp(old - sampled) for old, sampled in both]
    if config.correction == "tis":
        return [min(config.high, max(config.low, ratio)) for ratio in ratios]
    if config.correction == "icepop":
        return [ratio if config.low <= ratio <= config.high else 0.0 for ratio in ratios]
    mean = math.prod(ratios) ** (1 / len(ratios))
    return ratios if config.low <= mean <= config.high else [0.0] * len(ratios)


def reference_loss(
    model: torch.nn.Module,
    trajectories: Sequence[TrainingTrajectory],
    config: UpdateConfig,
    initial: torch.nn.Module | None = None,
    weigh_anew: bool = False,
    off_policy: OffPolicyConfig | None = None,
) -> torch.Tensor:
    """L_GRPO(original) + lambda * L(constructed), each token by the clipped objective times its OTS weight, or for constructed
    ones by its log-probability times both, plus the KL term.
    """
    total = torch.zeros((), dtype=torch.float64)
    for group, scale in ((AdvantageGroup.ORIGINAL, 1.0), (AdvantageGroup.CONSTRUCTED, config.lambda_constructed)):
        sequences = []
        for trajectory in trajectories:
            if trajectory.group is not group:
                continue
            terms = []
            new = logprobs_of(model, trajectory)
            with torch.no_grad():
                base = logprobs_of(initial or model, trajectory)
            weights = trajectory.weights_T
            if weigh_anew and group is AdvantageGroup.CONSTRUCTED:
                weights = weights_of(model, trajectory)
            factors = correction_of(trajectory, off_policy or OffPolicyConfig())
            tokens = zip(new, trajectory.old_logprobs_T, weights, base, factors, strict=True)
            for logprob, old, weight, reference, factor in tokens:
                ratio = torch.exp(logprob - old)
                clipped = torch.clamp(ratio, 1 - config.clip_low, 1 + config.clip_high)
                gain = weight * trajectory.advantage
                kl = torch.exp(reference - logprob) - 1 + logprob - reference  # k3
                if group is AdvantageGroup.CONSTRUCTED and config.constructed_loss == "log_likelihood":
                    objective = gain * logprob
                else:
                    objective = factor * torch.minimum(ratio * gain, clipped * gain)
                terms.append(-objective + config.kl_coefficient * kl)
            sequences.append(terms)
        if config.loss_aggregation == "token":
            flat = [term for terms in sequences for term in terms]
            total = total + scale * sum(flat) / len(flat) if flat else total
        elif sequences:
            total = total + scale * sum(sum(terms) / len(terms) for terms in sequences) / len(sequences)
    return total


def made_up_trajectories(checkpoint: Path, n: int) -> list[TrainingTrajectory]:
    """Trajectories of uneven lengths in both groups, old log-probabilities off by enough that some ratios are clipped."""
    rng = random.Random(3)
    model = double(checkpoint)
    result = []
    for i in range(n):
        constructed = i % 3 == 2
        length = rng.randint(1, 9)
        draft = TrainingTrajectory(
            subject_id=f"t{i}",
            group=AdvantageGroup.CONSTRUCTED if constructed else AdvantageGroup.ORIGINAL,
            prompt_token_ids=[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 6))],
            response_token_ids_T=[rng.randrange(VOCAB_SIZE) for _ in range(length)],
            old_logprobs_T=[0.0] * length,
            advantage=rng.choice([-1.3, 0.4, 1.7]),
            weights_T=[rng.choice([0.01, 0.6, 3.0]) if constructed else 1.0 for _ in range(length)],
        )
        with torch.no_grad():
            old = [float(value) + rng.uniform(-0.4, 0.4) for value in logprobs_of(model, draft)]
        result.append(
            TrainingTrajectory(
                **{name: getattr(draft, name) for name in draft.__slots__ if "logprobs" not in name},
                old_logprobs_T=old,
                sampled_logprobs_T=None if constructed else [value + rng.gauss(0.0, 0.3) for value in old],
            )
        )
    return result


def as_before_the_update(trajectory: TrainingTrajectory, checkpoint: Path) -> TrainingTrajectory:
    """The same with old log-probabilities as they are under the checkpoint, the sampler's as far from them as they were."""
    with torch.no_grad():
        own = [float(value) for value in logprobs_of(double(checkpoint), trajectory)]
    old, sampled = trajectory.old_logprobs_T, trajectory.sampled_logprobs_T
    assert old is not None
    if sampled is not None:
        sampled = [s - o + exact for s, o, exact in zip(sampled, old, own, strict=True)]
    return replace(trajectory, old_logprobs_T=own, sampled_logprobs_T=sampled)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_the_reference_gradient_against_finite_differences(checkpoint: Path, aggregation: str) -> None:
    config = UpdateConfig.model_validate({"loss_aggregation": aggregation, "lambda_constructed": 0.7})
    trajectories = made_up_trajectories(checkpoint, 6)
    model = double(checkpoint)
    reference_loss(model, trajectories, config).backward()
    rng = random.Random(0)
    checked = 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        index = int(parameter.grad.abs().flatten().argmax()) if rng.random() < 0.5 else rng.randrange(parameter.numel())
        flat, step = parameter.data.flatten(), 1e-6
        assert flat.data_ptr() == parameter.data.data_ptr()
        values = []
        with torch.no_grad():
            for shift in (step, -2 * step, step):
                flat[index] += shift
                values.append(float(reference_loss(model, trajectories, config)))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(parameter.grad.flatten()[index]), rel=1e-4, abs=1e-7)
        checked += 1
    assert checked > 10


@pytest.mark.parametrize("keys", [
    {},
    {"loss_aggregation": "sequence", "lambda_constructed": 0.3, "clip_high": 0.28},
    {"epochs": 2, "minibatches": 3, "weight_decay": 0.1, "max_grad_norm": 0.05},
    {"epochs": 3, "kl_coefficient": 0.5, "lambda_constructed": 2.0},
    {"epochs": 3, "minibatches": 2, "token_weight": {"policy": "current"}},
    {"epochs": 2, "minibatches": 2, "constructed_loss": "log_likelihood", "lambda_constructed": 0.5},
    {"epochs": 2, "off_policy": {"correction": "tis", "low": 0.8, "high": 1.2}},
    {"minibatches": 2, "loss_aggregation": "sequence", "off_policy": {"correction": "icepop", "low": 0.8, "high": 1.2}},
    {"epochs": 2, "off_policy": {"correction": "seq-mask-tis", "low": 0.9, "high": 1.1}},
    {"on_policy": True},
    {"on_policy": True, "loss_aggregation": "sequence", "kl_coefficient": 0.5, "token_weight": {"policy": "current"}},
    {"on_policy": True, "off_policy": {"correction": "tis", "low": 0.8, "high": 1.2}},
    {"on_policy": True, "off_policy": {"correction": "seq-mask-tis", "low": 0.9, "high": 1.1}},
])  # fmt: skip
def test_openrlhf_takes_the_same_steps_as_the_reference(checkpoint: Path, keys: dict[str, object]) -> None:
    keys = dict(keys)
    token_weight = TokenWeightConfig.model_validate(keys.pop("token_weight", {}))
    off_policy = OffPolicyConfig.model_validate(keys.pop("off_policy", {}))
    on_policy = keys.pop("on_policy", False)
    config = UpdateConfig.model_validate({"learning_rate": RATE, "warmup_steps": 0, "micro_batch_tokens": 24, **keys})
    trajectories = given = made_up_trajectories(checkpoint, 12)
    if on_policy:  # what the originals' old log-probabilities are is left to the step itself to find
        trajectories = [as_before_the_update(t, checkpoint) for t in trajectories]
        given = [replace(t, old_logprobs_T=None) if t.group is AdvantageGroup.ORIGINAL else t for t in trajectories]
    trainer = OpenRlhfTrainer(config, token_weight, "float32", TEMPERATURE, 0, checkpoint, off_policy)
    trainer.load_policy(PolicyRef("p", checkpoint, optimizer=None, optimizer_digest=None))
    report = trainer.update(given, seed=5)
    reports = report.steps
    without = {t.subject_id: t.old_logprobs_T for t, g in zip(trajectories, given, strict=True) if g is not t}
    assert report.old_logprobs_T.keys() == without.keys()
    assert len(without) == (8 if on_policy else 0)
    for subject_id, found in report.old_logprobs_T.items():
        assert found == pytest.approx(without[subject_id], abs=1e-5)

    model = double(checkpoint)
    # OpenRLHF leaves the weights of norms out of weight decay.
    norms = [p for p in model.parameters() if p.ndim == 1]
    others = [p for p in model.parameters() if p.ndim > 1]
    groups = [{"params": norms, "weight_decay": 0.0}, {"params": others, "weight_decay": config.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=config.adam_betas, eps=1e-8)
    number = 0
    for epoch in range(config.epochs):
        order = list(range(len(trajectories)))
        random.Random(f"5/{epoch}").shuffle(order)
        size = -(-len(order) // config.minibatches)
        for start in range(0, len(order), size):
            optimizer.zero_grad()
            chunk = [trajectories[i] for i in order[start : start + size]]
            loss = reference_loss(
                model, chunk, config, double(checkpoint), token_weight.policy == "current", off_policy
            )
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            assert reports[number].values["loss"] == pytest.approx(loss.item(), abs=1e-5)
            if off_policy.correction != "off":
                factors = [correction_of(t, off_policy) for t in chunk if t.sampled_logprobs_T is not None]
                assert 0 < reports[number].values["off_policy_outside/original"] < 1
                assert any(factor != 1.0 for row in factors for factor in row)
            assert reports[number].values["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
            optimizer.step()
            number += 1
    assert number == len(reports)
    taken, wanted = [], []
    before = double(checkpoint).state_dict()
    for name, parameter in trainer._actor.model.module.named_parameters():
        taken.append((parameter.detach().double() - before[name]).flatten())
        wanted.append((dict(model.named_parameters())[name].detach() - before[name]).flatten())
    trainer.close()
    ours, reference = torch.cat(taken), torch.cat(wanted)
    assert float(reference.norm()) > 0.1
    # Adam divides a gradient by its own size: where that is next to nothing, the last bit decides the sign.
    assert float((ours - reference).norm() / reference.norm()) < 1e-3
    assert float(((ours - reference).abs() < 1e-5).double().mean()) > 0.999


def test_several_steps_need_the_old_logprobs(checkpoint: Path) -> None:
    config = UpdateConfig(epochs=2)
    trainer = OpenRlhfTrainer(config, TokenWeightConfig(), "float32", TEMPERATURE, 0, checkpoint, OffPolicyConfig())
    trainer.load_policy(PolicyRef("p", checkpoint, optimizer=None, optimizer_digest=None))
    trajectories = [replace(t, old_logprobs_T=None) for t in made_up_trajectories(checkpoint, 3)]
    with pytest.raises(ValueError, match="of several steps needs the old log-probabilities"):
        trainer.update(trajectories, seed=5)
    assert trainer.policy_version_id == "p", "nothing was changed"
    trainer.close()
