"""One variant of `throughput.py` in a process of its own: `python throughput_variants.py VARIANT SPEC.json OUT.json`.

    prepare   the batches: each iteration's queries as token ids, with the seeds that our flow gives their rollouts
    grpo      our train flow, constructions off; every stage, commit, probe and checkpoint
    tapo      our train flow
    bare      vLLM, the verifier's function, plain advantages, OpenRLHF's Actor, PolicyLoss and DeepspeedStrategy
    trl       TRL's GRPOTrainer, sampling with transformers' generate
    trl_vllm  TRL's GRPOTrainer, sampling with vLLM in its own process ("colocate")

OUT.json has the number of threads and a list of iterations: {"iteration", "seconds", "n_samples", "n_tokens" (sampled), "digest"
(of the sampled token ids, in the batch's order), "n_correct", "parts" (seconds of named parts)}.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from tapo_core.engines.environment import prepare_environment

prepare_environment()

from tapo_core.assets import resolve_assets
from tapo_core.chat import Chat
from tapo_core.config import TapoConfig
from tapo_core.config_file import load_config
from tapo_core.data import load_inputs
from tapo_core.ids import derive_seed, digest
from tapo_core.records import Query, Rollout, RolloutKind, RolloutTokens, TokenRole, Verification
from tapo_core.schedule import queries_of_iteration

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


def config_of(spec: Row, method: str = "grpo") -> TapoConfig:
    """The configuration of our flow; the others take their settings from it."""
    settings = [
        f"run.name={method}",
        f"run.output_dir={spec['folder']}/runs",
        # The last one is followed by an evaluation, and not by the report in which it would end: it is not measured.
        f"run.iterations={spec['iterations'] + 1}",
        "evaluation.every=0",
        "evaluation.queries=1",
        "evaluation.samples=1",
        f"data.queries_per_iteration={spec['queries']}",
        f"sampler.rollouts_per_query={spec['rollouts']}",
        *spec["settings"],
    ]
    return load_config(ROOT / "configs" / f"nano_{method}.toml", settings)


def prepare(spec: Row) -> Row:
    """The batches that all variants work on."""
    config = config_of(spec)
    assets = resolve_assets(config)
    chat = Chat(assets.model, config.model.chat_template_kwargs)
    queries = {q.query_id: q for q in load_inputs(config, assets.train, assets.held_out, "").queries}
    train = [query_id for query_id, query in queries.items() if query.split == "train"]

    def batch(iteration: int) -> list[Row]:
        chosen = queries_of_iteration(train, spec["queries"], iteration, config.run.seed)
        return [_query(queries[query_id], iteration) for query_id in chosen]

    def _query(query: Query, iteration: int) -> Row:
        stage = f"sample/{RolloutKind.TRAINING}"
        seeds = [derive_seed(config.run.seed, iteration, stage, query.query_id, k) for k in range(spec["rollouts"])]
        return {
            "query_id": query.query_id,
            "text": query.text,
            "gold": query.gold,
            "prompt_token_ids": chat.prompt(query.text),
            "seeds": seeds,
        }

    return {"model": str(assets.model), "batches": [batch(i) for i in range(1, spec["iterations"] + 1)]}


def flow(spec: Row, method: str) -> list[Row]:
    """Our flow, timed from outside."""
    from iteration_overhead import STAGES, Split

    from flows.train import train
    from tapo_core.progress import reporting
    from tapo_core.store import load

    split = Split()
    split.watch()
    with reporting(split):
        folder = Path(train(config_of(spec, method))["folder"])
    every = load(folder, RolloutTokens)
    tokens = {row.subject_id: row for row in every if row.role is TokenRole.ROLLOUT}
    rollouts = {}
    for rollout in load(folder, Rollout):
        if rollout.kind is RolloutKind.TRAINING:
            rollouts[rollout.iteration, rollout.query_id, rollout.k] = rollout.rollout_id
    correct = {v.subject_id: v.reward == 1.0 for v in load(folder, Verification)}
    rows = []
    for iteration, batch in enumerate(spec["batches"], start=1):
        ids = [rollouts[iteration, q["query_id"], k] for q in batch for k in range(spec["rollouts"])]
        kinds = ("store", "weights", "publish")
        parts: Row = {kind: sum(split.seconds[iteration, stage, kind] for stage in STAGES) for kind in kinds}
        parts |= {f"engine {stage}": split.seconds[iteration, stage, "engine"] for stage in STAGES}
        parts = {name: seconds for name, seconds in parts.items() if seconds}
        parts["rest"] = split.wall[iteration] - sum(parts.values())
        row = _row(iteration, split.wall[iteration], [tokens[i].token_ids_T for i in ids], parts)
        row["n_correct"] = sum(correct[i] for i in ids)
        row["stages"] = {stage: split.stage_wall[iteration, stage] for stage in STAGES}
        of_iteration = [t for t in every if t.iteration == iteration]
        asked = [t for t in of_iteration if t.role is TokenRole.CORRECTION]
        made = [t for t in of_iteration if t.role is TokenRole.CONSTRUCTED]
        row["constructions"] = {
            "asked for": len(asked),
            "prompt tokens": sum(len(t.prompt_token_ids) for t in asked),
            "sampled tokens": sum(len(t.token_ids_T) for t in asked),
            "trajectories": len(made),
            "trajectory tokens": sum(len(t.prompt_token_ids) + len(t.token_ids_T) for t in made),
        }
        rows.append(row)
    return rows


def bare(spec: Row) -> list[Row]:
    """The engines alone. Set up by our own classes, so that they are set up alike; not one of their methods runs after that."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from vllm import SamplingParams, TokensPrompt

    from tapo_core.engines.hf import load_tokenizer
    from tapo_core.engines.openrlhf_trainer import OpenRlhfTrainer
    from tapo_core.engines.protocols import PolicyRef
    from tapo_core.engines.scoring import micro_batches
    from tapo_core.engines.vllm_sampler import VllmSampler
    from tapo_core.verification.base import Question
    from tapo_core.verification.nano import NanoVerifier

    config, model = config_of(spec), Path(spec["model"])
    s, u = config.sampler, config.update
    rows = []
    marks: list[tuple[str, float]] = []
    begun = time.perf_counter()
    llm = VllmSampler(s, config.model.dtype)._start(str(model))
    trainer = OpenRlhfTrainer(
        u, config.token_weight, config.model.dtype, s.temperature, config.run.seed, model, config.off_policy
    )
    trainer.load_policy(PolicyRef("initial", model))
    actor, strategy = trainer._actor, trainer._strategy
    # What its own forward needs, which ours does without.
    actor.packing_samples, actor.temperature = False, s.temperature
    from openrlhf.models import PolicyLoss

    loss_of = PolicyLoss(clip_eps_low=u.clip_low, clip_eps_high=u.clip_high, token_level_loss=True)
    tokenizer, verifier = load_tokenizer(model), NanoVerifier()

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    for iteration, batch in enumerate(spec["batches"], start=1):
        if iteration > 1:  # the set-up counts as the first iteration's
            begun = time.perf_counter()
        marks.clear()
        if iteration > 1:
            weights = list(actor.model.module.named_parameters())
            llm.collective_rpc(_take_weights, args=(weights,))
            llm.reset_prefix_cache()
        mark("weights")
        prompts_B = [q["prompt_token_ids"] for q in batch for _ in q["seeds"]]
        params = [
            SamplingParams(
                seed=seed,
                temperature=s.temperature,
                top_p=s.top_p,
                max_tokens=s.max_new_tokens,
                logprobs=0,
                detokenize=False,
            )
            for q in batch
            for seed in q["seeds"]
        ]
        outputs = llm.generate([TokensPrompt(prompt_token_ids=p) for p in prompts_B], params, use_tqdm=False)
        answers_B = [list(output.outputs[0].token_ids) for output in outputs]
        mark("sampling")
        texts = tokenizer.batch_decode(answers_B, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        golds = [q["gold"] for q in batch for _ in q["seeds"]]
        asked = [Question("", gold, text, True) for gold, text in zip(golds, texts, strict=True)]
        rewards_B = [float(verdict.reward or 0.0) for verdict in verifier.verify(asked)]
        advantages_B: list[float] = []
        for start in range(0, len(rewards_B), spec["rollouts"]):
            group = rewards_B[start : start + spec["rollouts"]]
            mean, std = statistics.fmean(group), statistics.stdev(group)
            advantages_B += [(r - mean) / (std + 1e-6) if std else 0.0 for r in group]
        mark("rewards")
        sequences = [torch.tensor(p + a) for p, a in zip(prompts_B, answers_B, strict=True)]
        packed = []
        for chosen in micro_batches([len(x) for x in sequences], u.micro_batch_tokens):
            ids = pad_sequence([sequences[i] for i in chosen], batch_first=True, padding_value=tokenizer.pad_token_id)
            lengths = torch.tensor([[len(sequences[i])] for i in chosen])
            begins = torch.tensor([[len(prompts_B[i])] for i in chosen])
            place = torch.arange(ids.shape[1])[None]
            attention = (place < lengths).long()
            mask = ((place >= begins) & (place < lengths))[:, 1:].float()
            advantage = torch.tensor([advantages_B[i] for i in chosen])[:, None] * mask
            packed.append((ids, attention, mask, advantage))
        actor.eval()
        with torch.no_grad():
            olds = [actor(ids, attention_mask=attention, return_logprobs=True) for ids, attention, _, _ in packed]
        mark("score")
        actor.train()
        totals = {"batch_num_tokens": float(sum(map(len, answers_B))), "global_batch_size": float(len(answers_B))}
        for number, ((ids, attention, mask, advantage), old) in enumerate(zip(packed, olds, strict=True)):
            logprobs = actor(ids, attention_mask=attention, return_logprobs=True)
            loss = loss_of(logprobs, old, advantage, action_mask=mask, dp_size=1, **totals)[0]
            actor.model.set_gradient_accumulation_boundary(number == len(packed) - 1)
            strategy.backward(loss, actor, trainer._optimizer)
            strategy.optimizer_step(trainer._optimizer, actor, trainer._scheduler)
        mark("update")
        seconds = time.perf_counter() - begun
        names, times = zip(*marks, strict=True)
        before = (begun, *times[:-1])
        parts = {name: now - then for name, now, then in zip(names, times, before, strict=True)}
        rows.append(_row(iteration, seconds, answers_B, parts) | {"n_correct": int(sum(rewards_B))})
    return rows


def _take_weights(worker: Any, weights: list[tuple[str, Any]]) -> None:
    worker.model_runner.model.load_weights((name, weight.detach()) for name, weight in weights)


def trl(spec: Row, use_vllm: bool) -> list[Row]:
    """TRL's trainer, the same queries in the same order. It draws its own texts."""
    try:
        import trl as package
    except ImportError:
        sys.exit("trl is not installed: pip install --no-deps trl==1.16.0 (it needs nothing that is not here already)")
    from datasets import Dataset
    from transformers import TrainerCallback

    from tapo_core.engines.hf import load_model, load_tokenizer
    from tapo_core.verification.base import Question
    from tapo_core.verification.nano import NanoVerifier

    if use_vllm:
        from tapo_core.engines.vllm_sampler import _keep_weights_unpacked

        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
        _keep_weights_unpacked()
    config = config_of(spec)
    s, u = config.sampler, config.update
    verifier, model = NanoVerifier(), Path(spec["model"])
    total = spec["queries"] * spec["rollouts"]
    micro = min(spec["trl_micro_batch"], total)
    calls: list[Row] = []
    rows: list[Row] = []

    def reward(prompts: Any, completions: Any, completion_ids: Any, gold: list[str], **_: Any) -> list[float]:
        texts = [turns[0]["content"] for turns in completions]
        verdicts = verifier.verify([Question("", g, text, True) for g, text in zip(gold, texts, strict=True)])
        rewards = [float(verdict.reward or 0.0) for verdict in verdicts]
        calls.append({"ids": completion_ids, "asked": [turns[0]["content"] for turns in prompts], "rewards": rewards})
        return rewards

    class Clock(TrainerCallback):
        """An iteration ends with its optimizer step."""

        def __init__(self) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            iteration = len(rows) + 1
            if len(calls) != iteration:
                raise RuntimeError(f"TRL sampled {len(calls)} times in {iteration} optimizer steps")
            call, batch = calls[-1], spec["batches"][iteration - 1]
            wanted = [q["text"] for q in batch for _ in q["seeds"]]
            if call["asked"] != wanted:
                raise RuntimeError(f"TRL's iteration {iteration} is not of the batch's queries in their order")
            rows.append(_row(iteration, now - self.began, call["ids"], {}) | {"n_correct": int(sum(call["rewards"]))})
            self.began = time.perf_counter()

    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": q["text"]}], "gold": q["gold"]}
            for batch in spec["batches"]
            for q in batch
        ]
    )
    arguments = package.GRPOConfig(
        output_dir=f"{spec['folder']}/trl",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=total // micro,
        generation_batch_size=total,
        num_generations=spec["rollouts"],
        max_steps=len(spec["batches"]),
        max_completion_length=s.max_new_tokens,
        temperature=s.temperature,
        top_p=s.top_p,
        top_k=0,
        loss_type="dapo",  # the mean over all tokens, as ours
        beta=0.0,
        epsilon=u.clip_low,
        epsilon_high=u.clip_high,
        learning_rate=u.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=u.warmup_steps,
        adam_beta1=u.adam_betas[0],
        adam_beta2=u.adam_betas[1],
        weight_decay=u.weight_decay,
        max_grad_norm=u.max_grad_norm,
        shuffle_dataset=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=config.run.seed,
        **({"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": s.max_model_len} if use_vllm else {}),
    )
    clock = Clock()
    trainer = package.GRPOTrainer(
        model=load_model(model, config.model.dtype, "cpu"),
        reward_funcs=reward,
        args=arguments,
        train_dataset=data,
        processing_class=load_tokenizer(model),
        callbacks=[clock],
    )
    trainer.train()
    return rows


def _row(iteration: int, seconds: float, token_ids: list[list[int]], parts: Row) -> Row:
    return {
        "iteration": iteration,
        "seconds": seconds,
        "n_samples": len(token_ids),
        "n_tokens": sum(map(len, token_ids)),
        "digest": digest([list(map(int, ids)) for ids in token_ids]),
        "parts": parts,
    }


def main() -> None:
    """Run one variant."""
    variant, spec_path, out = sys.argv[1:]
    spec = json.loads(Path(spec_path).read_text())
    match variant:
        case "prepare":
            result: Any = prepare(spec)
        case "grpo" | "tapo":
            result = flow(spec, variant)
        case "bare":
            result = bare(spec)
        case "trl" | "trl_vllm":
            result = trl(spec, variant == "trl_vllm")
        case _:
            sys.exit(f"{variant}: no such variant")
    import torch

    if variant != "prepare":
        result = {"threads": torch.get_num_threads(), "rows": result}
    Path(out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
