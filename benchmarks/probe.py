"""Does the probe let right weights pass and find wrong ones? Alarms in many probes, and planted faults.

    .venv/bin/python benchmarks/probe.py [--dtype bfloat16] [--model FOLDER] [--probes 200] [--seed 0]

The model is the built-in one, or any checkpoint with a chat template. Right weights: as many probes as asked for, each after the
engine took the checkpoint again, with new prompts and seeds. Counted are the probe's alarms, and how often the largest difference
of 64 tokens is above 0.3 nats. Planted: for each layer, an MLP whose weights are off by a twentieth, and two heads of the queries
in each other's place; found by the weights' fingerprint, or by the log-probabilities alone. (The checkpoint's side is changed, on
the engine's samples, so that no engine has to be loaded for each.) The seconds of a probe are beside those of loading the policy.
"""

import argparse
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tapo_core.engines.environment import prepare_environment

prepare_environment()

import torch

from tapo_core.assets import cache_root
from tapo_core.chat import Chat
from tapo_core.config import SamplerConfig
from tapo_core.engines.fingerprint import fingerprint
from tapo_core.engines.hf import load_model
from tapo_core.engines.probe import CALIBRATION, TOKENS, Probe, differences, judged, prove
from tapo_core.engines.protocols import PolicyRef, SampleRequest
from tapo_core.engines.scoring import response_logprobs
from tapo_core.engines.vllm_sampler import VllmSampler
from tapo_core.errors import PolicyMismatchError
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.prepare import prepare


def design_effect(differences_of: list[list[float]]) -> float:
    """Variance of the mean of |d| over that of independent tokens: tokens of one sequence are alike."""
    every = [d for sequence in differences_of for d in sequence]
    mean = statistics.fmean(every)
    clusters = math.fsum(math.fsum(d - mean for d in sequence) ** 2 for sequence in differences_of)
    return clusters / len(every) / statistics.pvariance(every)


def perturbed(model: Any, layer: int) -> Callable[[], None]:
    """Change an MLP; returns what changes it back."""
    weights = list(model.model.layers[layer].mlp.parameters())
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(1 + 0.05 * torch.randn_like(weight))
    return lambda: [weight.data.copy_(old) for weight, old in zip(weights, kept, strict=True)]  # type: ignore[return-value]


def permuted(model: Any, layer: int) -> Callable[[], None]:
    """Swap the first and the last head of the queries; returns what swaps them back."""
    attention = model.model.layers[layer].self_attn
    weight, size = attention.q_proj.weight, attention.head_dim
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:size], weight[-size:] = kept[-size:], kept[:size]
    return lambda: weight.data.copy_(kept)  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--probes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    nano = prepare(NanoConfig(), cache_root() / "nano")
    checkpoint, dtype = arguments.model or nano.model_path, arguments.dtype
    chat = Chat(checkpoint, {})
    texts = [json.loads(line)["problem"] for line in nano.train_path.read_text(encoding="utf-8").splitlines()]
    settings, policy, draw = SamplerConfig(), PolicyRef("p", checkpoint), random.Random(arguments.seed)

    def requests() -> list[SampleRequest]:
        chosen = draw.sample(texts, CALIBRATION * settings.probe_sequences)
        return [SampleRequest(chat.prompt(text), draw.randrange(2**31), TOKENS, 1.0, 1.0) for text in chosen]

    sampler = VllmSampler(settings, dtype)
    sampler.load_policy(policy)
    known: list[Probe] = []
    alarms: list[str] = []
    seconds = []
    for _ in range(arguments.probes + 1):  # the first one calibrates
        sampler.load_policy(policy)
        asked, began = requests(), time.perf_counter()
        try:
            known += prove(sampler, policy, asked, known, None, dtype, "cpu", "tapo resume RUN")
        except PolicyMismatchError as error:
            alarms.append(str(error))
        seconds.append(time.perf_counter() - began)
    calibration, *later = known

    # Planted faults, and what single tokens do.
    model = load_model(checkpoint, dtype, "cpu")
    asked = requests()
    samples = sampler.sample(asked)
    prompts, answers = [r.prompt_token_ids for r in asked], [s.token_ids_T for s in samples]
    right = response_logprobs(model, prompts, answers, 1.0)
    found = [[abs(a - b) for a, b in zip(s.logprobs_T, r, strict=True)] for s, r in zip(samples, right, strict=True)]
    by_largest = [max(itertools.chain(*(d[:16] for d in found[k : k + 4]))) > 0.3 for k in range(0, len(found), 4)]
    n = settings.probe_sequences
    planted, own = {}, fingerprint(model.parameters())
    for plant in (perturbed, permuted):
        ratios, by_weights = [], 0
        for layer in range(len(model.model.layers)):
            undo = plant(model, layer)
            expected = response_logprobs(model, prompts[:n], answers[:n], 1.0)
            by_weights += fingerprint(model.parameters()) != own
            undo()
            wrong = differences(samples[:n], expected)
            ratios.append(wrong.mean / judged(Probe("p", 0, calibration.place, wrong, "", ""), known, None).bound)
        planted[plant.__name__] = by_weights, ratios
    sampler.close()

    noise, means = calibration.differences, [probe.differences.mean for probe in later]
    nearest = max(later, key=lambda probe: probe.differences.mean / probe.bound)
    print(f"{checkpoint.name}, {dtype}, {sampler.name} on {calibration.place.device}")
    print(
        f"noise: mean {noise.mean:.2g}, std {noise.std:.2g}, largest {noise.largest:.2g} nats, {noise.n_tokens} tokens"
    )
    print(f"design effect of sequences: {design_effect(found):.2f}")
    print(
        f"{arguments.probes} probes of right weights: {len(alarms)} alarms; means {min(means):.2g} to {max(means):.2g},"
    )
    print(f"  nearest to its bound {nearest.differences.mean:.2g} of {nearest.bound:.2g}")
    print(f"  largest single difference {max(probe.differences.largest for probe in later):.2g}")
    print(f"largest of 64 tokens above 0.3: in {sum(by_largest)} of {len(by_largest)}")
    for name, (by_weights, ratios) in planted.items():
        n_found, weakest = sum(ratio > 1 for ratio in ratios), min(ratios)
        print(
            f"{name}, of {len(ratios)} layers found: {by_weights} by the weights, {n_found} by the log-probabilities alone,"
        )
        print(f"  whose mean was {weakest:.2g} to {max(ratios):.2g} of the bound")
    print(f"a probe took {statistics.median(seconds[1:]):.2f} s (median), the calibration {seconds[0]:.2f} s")
    print(*alarms, sep="\n")


if __name__ == "__main__":
    main()
