"""Does it run on a GPU, and how fast? `make gpu-check`.

    .venv/bin/python benchmarks/gpu_check.py [--json build/gpu_check.json] [--sampler vllm|hf]
    .venv/bin/python benchmarks/gpu_check.py --device cpu --tiny        # the same code, small: a check of this script

Two parts, both through the project's own `Sampler`, `PolicyTrainer` and stages. No network is needed.

1. The built-in model: its cold start, then iterations of all six stages; the probe holds the sampler against the checkpoint.
2. A model of the shape of Qwen3-0.6B with random weights, in bfloat16: sampled, scored and updated, with tokens a second, the
   share of the device's bf16 peak, and peak memory. Random weights make no sense, but as much work as trained ones.

The sampler is vLLM where it is installed, else transformers (slow on purpose; the output says which). FLOPs are counted as
2 P a token forward and 6 P forward and backward, P the parameters (the tied embedding once: it is the output matrix), plus
attention: 2 L H D T a token forward over T causal positions, three times that with backward (L layers, H heads of D). Nothing is
counted for what is computed again. Peak: dense bf16 of NVIDIA's data sheets, for the names in `PEAKS`; other devices have none.
"""

import argparse
import importlib.util
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: Dense bf16 TFLOP/s by a part of the device's name; the first that fits.
PEAKS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3, and how much work it is given."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    prompt_tokens: int
    new_tokens: int  #: of a sampled response
    sequences: int  #: sampled at once; the HF sampler takes an eighth
    trained_tokens: int  #: of a response that is scored and trained on
    trained: int  #: such responses
    micro_batch_tokens: int


#: Qwen3-0.6B as published: 596 million parameters.
QWEN3_06B = Shape(151936, 1024, 28, 16, 8, 128, 3072, 128, 1024, 256, 1536, 64, 16384)
TINY = Shape(512, 64, 2, 2, 1, 32, 128, 8, 8, 16, 24, 4, 64)


def device_facts(cpu: bool) -> dict[str, Any]:
    """Name, versions and peak of the device.

    Raises:
        SystemExit: a GPU is asked for and there is none.
    """
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__, "peak_tflops": None, "device": "cpu"}
    if cpu:
        return facts
    if not torch.cuda.is_available():
        print(
            f"gpu_check: torch {torch.__version__} sees no CUDA device here, so nothing was measured; run it on a machine with "
            "one (docs/results.md), or check the script alone: --device cpu --tiny",
            file=sys.stderr,
        )
        sys.exit(2)
    facts["device"] = torch.cuda.get_device_name()
    facts["peak_tflops"] = next((peak for name, peak in PEAKS.items() if name in facts["device"]), None)
    return facts


def synchronized() -> float:
    """The time, when the device has done what it was given."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory() -> float:
    """Largest memory so far, GiB: of torch's allocations on the GPU, else of this process (resident)."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def nano_run(folder: Path, sampler: str, iterations: int, tiny: bool) -> dict[str, Any]:
    """Part 1. Stages are called without Prefect, which is not what is checked."""
    from tapo_core.assets import resolve_assets
    from tapo_core.config_file import load_config
    from tapo_core.session import Session
    from tapo_core.stages.diagnose_and_correct import diagnose_and_correct
    from tapo_core.stages.filter_by_difficulty import filter_by_difficulty
    from tapo_core.stages.locate_error import locate_error
    from tapo_core.stages.sample import sample
    from tapo_core.stages.start import start
    from tapo_core.stages.update_policy import update_policy
    from tapo_core.stages.verify import verify
    from tapo_core.store import query

    settings = ["run.name=gpu-check", f"run.output_dir={folder}", f"sampler.engine={sampler}"]
    if tiny:
        settings += [
            "nano.levels=[1]",
            "nano.steps=120",
            "nano.slip_rate=0.2",
            "nano.n_train=40",
            "nano.n_held_out=12",
            "data.queries_per_iteration=12",
            "sampler.max_new_tokens=48",
        ]
        settings += ["sampler.rollouts_per_query=4", "filter.n_pos=1", "filter.n_neg=1", "correction.max_new_tokens=64"]
    config = load_config(Path(__file__).resolve().parents[1] / "configs" / "nano_tapo.toml", settings)
    session = Session(config, resolve_assets(config))
    seconds = []
    try:
        head = start(session).chain_digest
        for iteration in range(1, iterations + 1):
            began = time.perf_counter()
            for stage in (sample, verify, locate_error, diagnose_and_correct, filter_by_difficulty, update_policy):
                head = stage(session, iteration, head).chain_digest
            seconds.append(time.perf_counter() - began)
    finally:
        session.close()
    rows = query(config.run_folder, "SELECT iteration, accuracy FROM iteration_summary ORDER BY iteration")
    worst = query(config.run_folder, "SELECT max(value) AS v FROM update_metric WHERE name = 'sampler_mismatch/max'")
    if worst["v"].isna().any():
        sys.exit(
            "gpu_check: no iteration of the built-in model had anything to train on: no query was solved by some and not all"
        )
    return {
        "seconds_an_iteration": seconds,
        "training_accuracy": [float(value) for value in rows["accuracy"]],
        "sampler_trainer_mismatch_nats": float(worst["v"][0]),
    }


def write_checkpoint(folder: Path, shape: Shape, dtype: str) -> tuple[int, int]:
    """A model with random weights and a tokenizer of as many words. Returns its parameters, and its end-of-text token."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    from tapo_core.nano.model import count_parameters
    from tapo_core.nano.tokenizer import CHAT_TEMPLATE, END, PAD

    words = {PAD: 0, "<unk>": 1, END: 2} | {f"t{n}": n for n in range(3, shape.vocab)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        **{"pad_token": PAD, "unk_token": "<unk>", "eos_token": END, "chat_template": CHAT_TEMPLATE},
    )
    torch.manual_seed(0)
    architecture = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=words[END],
        pad_token_id=words[PAD],
    )
    model = Qwen3ForCausalLM(architecture).to(getattr(torch, dtype))
    model.generation_config = GenerationConfig(eos_token_id=words[END], pad_token_id=words[PAD])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return count_parameters(model), words[END]


def flops(shape: Shape, parameters: int, context: float, backward: bool) -> float:
    """Of one token with `context` positions in all, of which it sees half on average."""
    forward = 2.0 * parameters + 2.0 * shape.layers * shape.heads * shape.head_dim * context
    return 3.0 * forward if backward else forward


def shaped_run(folder: Path, sampler: str, shape: Shape, dtype: str) -> dict[str, Any]:
    """Part 2."""
    import torch

    from tapo_core.assets import Assets
    from tapo_core.config_file import parse_config
    from tapo_core.engines.protocols import PolicyRef, SampleRequest, TrainingTrajectory
    from tapo_core.records import AdvantageGroup
    from tapo_core.session import Session

    checkpoint = folder / "checkpoint"
    parameters, end = write_checkpoint(checkpoint, shape, dtype)
    config = parse_config(
        {
            "run": {"name": "shaped", "output_dir": str(folder)},
            "model": {"path": str(checkpoint), "dtype": dtype},
            "sampler": {
                "engine": sampler,
                "max_new_tokens": shape.new_tokens,
                "max_model_len": max(2048, shape.prompt_tokens + shape.new_tokens + 1),
            },
            "update": {"micro_batch_tokens": shape.micro_batch_tokens, "learning_rate": 1e-6},
        },
        "gpu_check",
    )
    session = Session(config, Assets(checkpoint, "", ""))
    draw = random.Random(0)
    policy = PolicyRef("initial", checkpoint)

    def words(n: int) -> list[int]:
        return [draw.randrange(3, shape.vocab) for _ in range(n)]

    n_sampled = max(1, shape.sequences // (1 if sampler == "vllm" else 8))
    prompts = [words(shape.prompt_tokens) for _ in range(max(1, n_sampled // 8))]
    requests = [
        SampleRequest(prompts[n % len(prompts)], n, shape.new_tokens, temperature=1.0, top_p=1.0)
        for n in range(n_sampled)
    ]
    facts: dict[str, Any] = {"shape": asdict(shape), "parameters": parameters, "dtype": dtype}

    def timed(name: str, work: Callable[[], Any], n_tokens: Callable[[Any], int], each: float) -> Any:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = synchronized()
        made = work()
        seconds = synchronized() - began
        n = n_tokens(made)
        facts[name] = {
            "tokens": n,
            "seconds": seconds,
            "tokens_a_second": n / seconds,
            "tflops": each * n / seconds / 1e12,
            "peak_memory_gib": peak_memory(),
        }
        return made

    engine = session._sampler
    engine.load_policy(policy)
    facts["sampler"] = engine.name
    engine.sample(requests[:1])  # what is compiled or allocated once
    context = (
        2.0 * shape.prompt_tokens + shape.new_tokens
    )  # a response sees its prompt and half of itself: `flops` halves
    samples = timed(
        "sampling",
        lambda: engine.sample(requests),
        lambda made: sum(len(sample.token_ids_T) for sample in made),
        flops(shape, parameters, context, backward=False),
    )
    engine.close()

    trainer = session._trainer
    trainer.load_policy(policy)
    facts["trainer"] = trainer.name
    scored = trainer.score([r.prompt_token_ids for r in requests], [s.token_ids_T for s in samples])
    facts["sampler_trainer_mismatch_nats"] = max(
        abs(a - b)
        for sample, score in zip(samples, scored, strict=True)
        for a, b in zip(sample.logprobs_T, score.logprobs_T, strict=True)
    )
    texts = [(words(shape.prompt_tokens), [*words(shape.trained_tokens - 1), end]) for _ in range(shape.trained)]
    length = shape.prompt_tokens + shape.trained_tokens
    scores = timed(
        "scoring",
        lambda: trainer.score([prompt for prompt, _ in texts], [response for _, response in texts]),
        lambda made: length * len(made),
        flops(shape, parameters, length, backward=False),
    )
    trajectories = [
        TrainingTrajectory(
            subject_id=str(n),
            group=AdvantageGroup.CONSTRUCTED if n % 4 == 3 else AdvantageGroup.ORIGINAL,
            prompt_token_ids=prompt,
            response_token_ids_T=response,
            old_logprobs_T=score.logprobs_T,
            advantage=1.0 if n % 2 else -1.0,
            weights_T=[1.0] * len(response),
        )
        for n, ((prompt, response), score) in enumerate(zip(texts, scores, strict=True))
    ]
    trainer.update(trajectories[:4], 0)  # the optimizer's state is allocated at its first step
    trainer.publish(folder / "published", "warm")
    before = trainer.policy_version_id
    report = timed(
        "update",
        lambda: trainer.update(trajectories, 1),
        lambda _: length * len(trajectories),
        flops(shape, parameters, length, backward=True),
    )
    facts["grad_norm"] = report.steps[-1].values["grad_norm"]
    session.close()
    if before != "warm" or not 0.0 < facts["grad_norm"] < float("inf"):
        sys.exit(f"gpu_check: the update was none: gradient norm {facts['grad_norm']}")
    return facts


def told(facts: dict[str, Any]) -> None:
    """Print what was measured."""
    device, nano, shaped = facts["device"], facts["nano"], facts["shaped"]
    peak = device["peak_tflops"]
    print(
        f"device: {device['device']} (torch {device['torch']}), bf16 peak {f'{peak:.0f} TFLOP/s' if peak else 'unknown'}"
    )
    print(
        f"built-in model: {', '.join(f'{s:.1f}' for s in nano['seconds_an_iteration'])} s an iteration; training accuracy "
        f"{', '.join(f'{a:.1%}' for a in nano['training_accuracy'])}; sampler and trainer differ by at most "
        f"{nano['sampler_trainer_mismatch_nats']:.1e} nats"
    )
    engines = f"{shaped['sampler']}, {shaped['trainer']}"
    print(
        f"random model of {shaped['parameters'] / 1e6:.1f} M parameters, {shaped['dtype']}, {engines}; "
        f"sampler and trainer differ by at most {shaped['sampler_trainer_mismatch_nats']:.1e} nats"
    )
    print(f"{'':10s} {'tokens':>9s} {'seconds':>9s} {'tokens/s':>10s} {'TFLOP/s':>9s} {'of peak':>8s} {'GiB':>7s}")
    for name in ("sampling", "scoring", "update"):
        row = shaped[name]
        share = f"{row['tflops'] / peak:8.1%}" if peak else f"{'-':>8s}"
        print(
            f"{name:10s} {row['tokens']:9,d} {row['seconds']:9.2f} {row['tokens_a_second']:10,.0f} {row['tflops']:9.2f} {share} "
            f"{row['peak_memory_gib']:7.2f}"
        )
    print(
        "GiB: torch's own peak on the GPU within each part"
        if peak
        else "GiB: peak resident memory of this process so far"
    )


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes, to check this script; the figures say nothing"
    )
    parser.add_argument("--sampler", choices=["vllm", "hf"], help="vllm where it is installed, else hf")
    parser.add_argument("--iterations", type=int, default=3, help="of the built-in model")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported
    sampler = options.sampler or ("vllm" if importlib.util.find_spec("vllm") else "hf")

    from tapo_core.engines.environment import prepare_environment

    prepare_environment(vllm=sampler == "vllm")
    facts: dict[str, Any] = {"device": device_facts(options.device == "cpu"), "tiny": options.tiny}
    shape = TINY if options.tiny else QWEN3_06B
    # On CPU in float32: vLLM and DeepSpeed are tested there in that alone.
    dtype = "float32" if options.device == "cpu" else "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        if options.tiny:
            os.environ["TAPO_CACHE"] = folder
        facts["nano"] = nano_run(Path(folder), sampler, options.iterations, options.tiny)
        facts["shaped"] = shaped_run(Path(folder), sampler, shape, dtype)
    told(facts)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
