"""Scores in chunks against a whole matrix of logits, and the memory they take."""

import random
from pathlib import Path

import logprob_memory
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM

from tapo_core.engines.hf import load_model
from tapo_core.engines.scoring import Scorer, micro_batches, pad_right, response_logprobs, score_tokens
from tapo_core.errors import UserError
from tapo_core.nano.tokenizer import VOCAB_SIZE

TEMPERATURE = 0.7


def plain(
    head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # in float64, all at once
    logits = hidden.double() @ head.weight.double().T / TEMPERATURE
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs[torch.arange(len(targets)), targets], -(logprobs.exp() * logprobs).sum(-1)


@settings(max_examples=30)
@given(n=st.integers(1, 40), chunk=st.sampled_from([1, 2, 7, 40, 1000]), seed=st.integers(0, 99))
def test_chunks_give_the_values_and_gradients_of_the_whole_matrix(n: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(16, 101, bias=False)
    hidden = torch.randn(n, 16, generator=generator, requires_grad=True)
    targets = torch.randint(101, (n,), generator=generator)
    mix = torch.randn(2, n, generator=generator)
    gradients = []
    found = score_tokens(head, hidden, targets, TEMPERATURE, chunk, entropy=True)
    wanted = plain(head, hidden, targets)
    for (logprobs, entropies), exact in ((found, False), (wanted, True)):
        assert entropies is not None
        loss = (logprobs * mix[0]).sum() + (entropies * mix[1]).sum()
        gradients.append(torch.autograd.grad(loss, [hidden, head.weight], retain_graph=exact))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours is not None
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        alone, none = score_tokens(head, hidden, targets, TEMPERATURE, chunk, entropy=False)
    torch.testing.assert_close(alone, found[0])
    assert none is None


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_a_padded_batch_is_scored_as_each_text_alone(checkpoint: Path, chunk: int) -> None:
    rng = random.Random(1)
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 9))] for _ in range(7)]
    responses = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 30))] for _ in range(7)]
    model = load_model(checkpoint, "float32", "cpu")
    scorer = Scorer(model, "nano")
    ids, mask = pad_right(prompts, responses, "cpu")
    scores = scorer.scores(model, ids, mask, TEMPERATURE, chunk, entropy=True)
    scores.logprobs.sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total = torch.zeros(())
    batched = response_logprobs(model, prompts, responses, TEMPERATURE, chunk, batch_tokens=60)
    assert scores.entropy is not None
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / TEMPERATURE
        logprobs = torch.log_softmax(logits, dim=-1)
        wanted = logprobs[torch.arange(len(response)), torch.tensor(response)]
        span = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
        torch.testing.assert_close(scores.logprobs[row, span], wanted, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.tensor(batched[row]), wanted.detach(), rtol=0, atol=1e-5)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        torch.testing.assert_close(scores.entropy[row, span], entropies, rtol=0, atol=1e-5)
        assert float(scores.logprobs[row].detach().sum()) == pytest.approx(float(wanted.detach().sum()), abs=1e-3), (
            "0 elsewhere"
        )
        total = total + wanted.sum()
    total.backward()
    for name, parameter in model.named_parameters():
        size = float(parameter.grad.abs().max())
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-5, atol=1e-5 * max(1.0, size))
    assert "forward" not in vars(model.get_output_embeddings()), "the layer gives logits again"


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_micro_batches_hold_each_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


def test_a_model_that_changes_its_logits_afterwards_is_refused() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = Gemma2Config(vocab_size=32, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.01, **sizes)
    with pytest.raises(UserError, match="Gemma2ForCausalLM"):
        Scorer(Gemma2ForCausalLM(config), "it")


@pytest.mark.slow
def test_memory_grows_by_less_than_four_kilobytes_a_token() -> None:
    for gradient in (False, True):
        peaks = [logprob_memory.peak("chunked", n, gradient, chunk=64) for n in (1024, 9216)]
        bodies = [logprob_memory.peak("body", n, gradient, chunk=64) for n in (1024, 9216)]
        slope = (peaks[1] - peaks[0] - max(0, bodies[1] - bodies[0])) / (9216 - 1024)
        assert slope < 4096, f"{slope:.0f} bytes a token, gradient: {gradient}"
