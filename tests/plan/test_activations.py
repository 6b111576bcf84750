"""The formulas of the update step: activations against what autograd saves, ZeRO against the paper's own figures."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tapo_core.config_file import parse_config
from tapo_core.plan import training
from tapo_core.plan.layout import Layout, layout_of
from tapo_core.plan.shape import ModelShape, shape_of

ROWS, LENGTH = 2, 192
SIZES = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
#: What the formula leaves out: positions and token ids. A share of the count.
TOLERANCE = 0.02


def saved_bytes(kind: str, layers: int, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes of the tensors, weights apart, that are saved for a backward pass through a model without its head."""
    config_class, model_class = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[kind]
    model = model_class(config_class(**SIZES, num_hidden_layers=layers, attn_implementation="sdpa")).to(dtype).train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, or its address could be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(torch.zeros(ROWS, LENGTH, dtype=torch.long))
    return sum(size for size, _ in saved.values())


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layer_keeps_what_the_formula_says(kind: str, dtype: torch.dtype) -> None:
    shape = ModelShape("", 128, 1, 8, 2, 32, 384, 128, tied=True, positions=512, qk_norm=kind == "qwen3")
    few, many = (saved_bytes(kind, layers, dtype, checkpointing=False) for layers in (2, 6))
    expected = training.layer_activations(shape, dtype.itemsize) * ROWS * LENGTH
    assert (many - few) / 4 == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_checkpointing_a_layer_keeps_its_input(dtype: torch.dtype) -> None:
    few, many = (saved_bytes("qwen3", layers, dtype, checkpointing=True) for layers in (2, 6))
    assert (many - few) / 4 == pytest.approx(128 * dtype.itemsize * ROWS * LENGTH, rel=TOLERANCE)


def test_a_whole_micro_batch() -> None:
    shape = ModelShape("", 128, 6, 8, 2, 32, 384, 128, tied=True, positions=512)
    own = replace(layout(), micro_batch=ROWS * LENGTH, dtype_bytes=2)
    head = 128 * 2 * ROWS * LENGTH  # its input, which the head would keep
    found = head + saved_bytes("qwen3", 6, torch.bfloat16, checkpointing=False)
    assert training.activations(shape, own) == pytest.approx(found, rel=TOLERANCE)
    kept = head + saved_bytes("qwen3", 6, torch.bfloat16, checkpointing=True)
    recomputed = training.layer_activations(shape, 2) * ROWS * LENGTH
    assert training.activations(shape, replace(own, checkpointing=True)) == pytest.approx(
        kept + recomputed, rel=TOLERANCE
    )


def layout(**keys: object) -> Layout:
    return layout_of(parse_config({"run": {"name": "a"}, "update": keys, "model": {"dtype": "bfloat16"}}, "test"))


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_the_figures_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """Figure 1 of arXiv 1910.02054: 7.5 billion parameters in 16 bits on 64 devices."""
    shape = shape_of(parse_config({"run": {"name": "a"}}, "test"))
    held = training.states(shape, replace(layout(zero_stage=stage), ranks=64))
    per_parameter = sum(held[name] for name in ("weights", "gradients", "Adam")) / shape.parameters
    assert per_parameter * 7.5 == pytest.approx(gigabytes, abs=0.06)


def test_adam_goes_to_the_host_and_adapters_need_little_of_it() -> None:
    shape = shape_of(parse_config({"run": {"name": "a"}}, "test"))
    assert training.states(shape, layout(zero_stage=1, offload="optimizer"))["Adam"] == 0
    adapters = training.states(shape, layout(lora_rank=4))
    assert adapters["Adam"] == 12 * shape.lora_parameters(4)
    assert adapters["weights"] == 2 * (shape.parameters + shape.lora_parameters(4))


def test_the_buckets_are_those_of_the_installed_deepspeed() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = DeepSpeedZeroConfig()
    assert config.reduce_bucket_size == training.REDUCE_BUCKET
    assert config.max_live_parameters == training.LIVE_PARAMETERS
