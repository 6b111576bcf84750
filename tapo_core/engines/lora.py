"""Low-rank adapters (LoRA) through PEFT: put on a model before training, and merged into what is published."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapo_core.config_update import UpdateConfig
from tapo_core.errors import UserError

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


def add_adapters(model: Any, config: UpdateConfig, seed: int) -> Any:
    """The model with adapters on its linear layers, which alone are trainable, as OpenRLHF's `Actor` adds them.

    They begin as no change: B is 0, and A is drawn from `seed`. torch's random state is left as it was.

    Raises:
        UserError: the model has no layers of the names in update.lora_targets.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model

    targets = config.lora_targets
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_dropout=0.0,
        bias="none",
    )
    model.enable_input_require_grads()  # else checkpointed layers see no input that needs a gradient
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, settings)
        except ValueError as error:
            raise UserError(f"update.lora_targets = {targets!r}: {str(error).splitlines()[0]}") from error


def merged(state: Mapping[str, "torch.Tensor"], scale: float) -> dict[str, "torch.Tensor"]:
    """The state of the model without adapters: W + scale * B A, computed in float32 and rounded to the type of W.

    `state`: of the model with adapters, all weights whole. It is not changed.
    """
    result = {}
    for name, weight in state.items():
        if not name.startswith(_PREFIX) or ".lora_" in name:
            continue
        layer, base, rest = name.removeprefix(_PREFIX).partition(".base_layer.")
        if base and rest == "weight":
            down, up = (state[f"{_PREFIX}{layer}{factor}"].float() for factor in (_A, _B))
            weight = (weight.float() + scale * (up @ down)).to(weight.dtype)
        result[f"{layer}.{rest}" if base else layer] = weight
    return result


def save_merged(strategy: Any, actor: Any, tokenizer: Any, config: UpdateConfig, folder: Path) -> None:
    """Write the merged model and the tokenizer as a checkpoint. Every rank calls this; rank 0 writes.

    What is trained is left as it is: the sum is made of copies.
    """
    engine = actor.model
    # With ZeRO 3 the weights are in parts on the ranks; the name is DeepSpeed's, the type is that of the weights.
    state = engine._consolidated_16bit_state_dict() if config.zero_stage == 3 else engine.module.state_dict()
    if strategy.is_rank_0():
        model = engine.module.get_base_model()
        model.save_pretrained(str(folder), state_dict=merged(state, config.lora_alpha / config.lora_rank))
        tokenizer.save_pretrained(str(folder))
