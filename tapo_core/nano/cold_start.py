"""Cold start: supervised training of the nano model, in plain PyTorch on the CPU.

The loss is the mean negative log-likelihood (nats) of all tokens of an exchange, the prompt's included: in so short a
training, the attempts that a construction prompt quotes teach arithmetic and copying too. Examples are drawn without end, so
there are no epochs. Same configuration, same machine: same weights.

Names: _B examples of a micro-batch, _T positions.
"""

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from tapo_core.ids import derive_seed
from tapo_core.nano.config import NanoConfig
from tapo_core.nano.examples import Example, Shares, sample_example, task_templates
from tapo_core.nano.model import build_model
from tapo_core.nano.tokenizer import END, build_tokenizer

_WARMUP_SHARE = 0.06
_FINAL_LR_SHARE = 0.02
_MAX_GRAD_NORM = 1.0
_IGNORED = -100
#: Tokens up to which an example counts as short; it only decides how much padding there is.
_SHORT = 100

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class ColdStart:
    """A trained policy."""

    model: Qwen3ForCausalLM
    tokenizer: PreTrainedTokenizerFast
    final_loss: float  #: nats a token, mean over the last tenth of the steps


def chat_prompt(tokenizer: PreTrainedTokenizerFast, message: str) -> str:
    """A user message as the text that the policy continues."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
    )
    if not isinstance(text, str):
        raise TypeError("the chat template gave no text")
    return text


def train(config: NanoConfig, progress: Progress | None = None) -> ColdStart:
    """Train a nano model from nothing.

    Args:
        progress: called with ("cold start", done share in 0..1) after every step.
    """
    tokenizer = build_tokenizer()
    model = build_model(config, derive_seed(config.seed, 0, "nano_weights"))
    shares = Shares(config.slip_rate, config.notice_rate, config.construction_share)
    templates = task_templates()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    model.train()
    with _reproducible(), _workers(config.threads) as workers:
        for step in range(config.steps):
            rng = random.Random(derive_seed(config.seed, step, "nano_examples"))
            examples = [sample_example(config.mix, shares, templates, rng) for _ in range(config.batch_size)]
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * lr_share(step, config.steps)
            losses.append(_step(model, optimizer, _encode(tokenizer, examples), workers))
            if progress is not None:
                progress("cold start", (step + 1) / config.steps)
    model.train(False)
    tail = losses[-max(1, len(losses) // 10) :]
    return ColdStart(model, tokenizer, sum(tail) / len(tail))


def lr_share(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a small rest; share of the peak rate for a 0-based step."""
    warmup = max(1, round(_WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _FINAL_LR_SHARE + (1 - _FINAL_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def _encode(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> list[list[int]]:
    """Token ids of each example: prompt, answer, end of turn."""
    prompts = tokenizer([chat_prompt(tokenizer, e.prompt) for e in examples], add_special_tokens=False).input_ids
    answers = tokenizer([e.completion + END for e in examples], add_special_tokens=False).input_ids
    return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]


def _micro_batches(rows: list[list[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded (ids_BT, labels_BT): a short and a long half, since constructions are much longer than answers."""
    for part in ([r for r in rows if len(r) <= _SHORT], [r for r in rows if len(r) > _SHORT]):
        if not part:
            continue
        width = max(len(ids) for ids in part)
        # The padding id does not matter: attention is causal, and padded positions have no label.
        ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids in part])
        labels_BT = torch.tensor([ids + [_IGNORED] * (width - len(ids)) for ids in part])
        yield ids_BT, labels_BT


@dataclass(frozen=True, slots=True)
class _Workers:
    """Threads that each compute on one core."""

    pool: ThreadPoolExecutor
    count: int


def _step(model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, rows: list[list[int]], workers: _Workers) -> float:
    """One optimizer step; returns the loss in nats a token.

    Each worker takes a share of the rows. For a model of this size that is much faster than several threads within each
    operator, which spend their time waiting for each other.
    """
    n_targets = sum(len(ids) - 1 for ids in rows)
    rows = sorted(rows, key=len)  # so that every share has as many long rows
    shares = [share for i in range(workers.count) if (share := rows[i :: workers.count])]
    results = list(workers.pool.map(lambda share: _gradients(model, share, n_targets), shares))
    for parameter, *parts in zip(model.parameters(), *(gradients for gradients, _ in results), strict=True):
        parameter.grad = sum(parts[1:], start=parts[0])
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRAD_NORM)
    optimizer.step()
    return sum(loss for _, loss in results)


def _gradients(model: Qwen3ForCausalLM, rows: list[list[int]], n_targets: int) -> tuple[list[torch.Tensor], float]:
    """Gradient of the rows' part of the loss, one tensor a parameter, and that part."""
    parameters = list(model.parameters())
    gradients = [torch.zeros_like(parameter) for parameter in parameters]
    total = 0.0
    for ids_BT, labels_BT in _micro_batches(rows):
        hidden = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
        targets = labels_BT[:, 1:]
        logits = model.lm_head(hidden)
        loss = (
            cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="sum") / n_targets
        )
        for gradient, part in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
            gradient += part
        total += loss.item()
    return gradients, total


@contextmanager
def _workers(count: int) -> Iterator[_Workers]:
    """So many threads; the process's own number of torch threads comes back afterwards."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, initializer=lambda: torch.set_num_threads(1)) as pool:
            yield _Workers(pool, count)
    finally:
        torch.set_num_threads(before)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Deterministic kernels; the process's own settings come back afterwards."""
    debugging = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), debugging.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    debugging.fill_uninitialized_memory = False  # nothing here reads memory that was not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        debugging.fill_uninitialized_memory = before[1]
