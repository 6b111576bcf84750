"""Memory of the update step: formulas. All results are bytes on one rank.

Weights, gradients and Adam: ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3), with what DeepSpeed 0.19.6 adds to it.
`benchmarks/plan_states.py` measures both on one rank. Activations: counted as Korthikanti et al. 2022 (arXiv 2205.05198,
section 4) do, for transformers' decoder layers with SDPA (which keeps no T x T scores) and SwiGLU;
`tests/plan/test_activations.py` holds the count against what autograd saves.
"""

from tapo_core.plan.layout import Layout
from tapo_core.plan.shape import ModelShape

#: DeepSpeed's defaults, elements: the bucket that gradients are gathered in, and the parameters that stage 3 keeps whole.
REDUCE_BUCKET, LIVE_PARAMETERS = 500_000_000, 1_000_000_000


def states(shape: ModelShape, layout: Layout) -> dict[str, float]:
    """Weights, gradients, Adam's state and DeepSpeed's buffers, as they are held on the device during an update.

    Adam has two float32 moments a trained parameter, and float32 master weights, but for float32 in stage 0, where the weights
    are their own.
    """
    b, n = layout.dtype_bytes, layout.ranks
    frozen = shape.parameters if layout.lora_rank else 0
    trained = trained_parameters(shape, layout)
    stage = layout.zero_stage
    weights = (frozen + trained) * b / (n if stage == 3 else 1)
    gradients = trained * b / (n if stage >= 2 else 1)
    adam = 0.0 if layout.offload else adam_bytes(layout) * trained / (n if stage >= 1 else 1)
    buffers = 0.0
    if stage >= 1:
        buffers += REDUCE_BUCKET * b if stage == 3 else min(REDUCE_BUCKET, trained) * b
    if stage == 3 and n > 1:
        buffers += min(LIVE_PARAMETERS, frozen + trained) * b
    return {"weights": weights, "gradients": gradients, "Adam": adam, "DeepSpeed's buffers": buffers}


def trained_parameters(shape: ModelShape, layout: Layout) -> int:
    """Parameters that are trained: all, or those of the adapters."""
    return shape.lora_parameters(layout.lora_rank) if layout.lora_rank else shape.parameters


def adam_bytes(layout: Layout) -> int:
    """Bytes a trained parameter of Adam's moments and, if there are any, the master weights."""
    return 8 if layout.dtype_bytes == 4 and layout.zero_stage == 0 else 12


def layer_activations(shape: ModelShape, dtype_bytes: int) -> float:
    """Bytes a token that one decoder layer keeps for its backward pass.

    Two norms over the width: the float32 input, its normalised form, and the scaled one. The norms of queries and keys: the same
    without the scaled one. Attention: queries, keys, values, output and its log-sums; no mask, since texts are padded on the
    right (`engines.scoring`). SwiGLU: gate, its activation, the other branch, and their product.
    """
    b = dtype_bytes
    norms = 2 * (shape.hidden * (4 + 2 * b) + 4)
    if shape.qk_norm:
        norms += (shape.heads + shape.kv_heads) * (shape.head_dim * (4 + b) + 4)
    attention = b * shape.head_dim * 2 * (shape.heads + shape.kv_heads) + 4 * shape.heads
    return norms + attention + 4 * shape.ffn * b


def activations(shape: ModelShape, layout: Layout) -> float:
    """Bytes that one micro-batch keeps for its backward pass, its logits apart.

    With gradient checkpointing: each layer's input, and all of the one layer that is computed again.
    """
    b = layout.dtype_bytes
    layer = layer_activations(shape, b)
    last_norm = shape.hidden * (4 + 2 * b) + 4
    layers = shape.layers * shape.hidden * b + layer if layout.checkpointing else shape.layers * layer
    return layout.micro_batch * (layers + last_norm)


def gradients_of_activations(shape: ModelShape, layout: Layout) -> float:
    """Bytes of the gradients at the widest place of the backward pass: SwiGLU's three branches and the residual."""
    return float(layout.micro_batch * layout.dtype_bytes * (3 * shape.ffn + 2 * shape.hidden))


def logits(shape: ModelShape, layout: Layout) -> float:
    """Bytes of one chunk's logits: as the model gives them, in float32, their softmax for the entropy, and their gradient."""
    return float(layout.logit_chunk * shape.vocabulary * (layout.dtype_bytes + 12))


def step_gradients(shape: ModelShape, layout: Layout) -> float:
    """Bytes of the float32 gradients that the optimizer step makes of bfloat16 ones (on the host with offload)."""
    if layout.dtype_bytes == 4 or layout.offload:
        return 0.0
    return 4 * trained_parameters(shape, layout) / (layout.ranks if layout.zero_stage >= 1 else 1)
