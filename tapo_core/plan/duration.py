"""Expected time of an iteration: from measured rates where there are some, else a labelled estimate from FLOPs."""

from dataclasses import dataclass

from tapo_core.config import NANO, TapoConfig
from tapo_core.nano.config import NanoConfig
from tapo_core.plan.layout import layout_of
from tapo_core.plan.machine import Machine
from tapo_core.plan.rates import measured
from tapo_core.plan.shape import ModelShape
from tapo_core.plan.volume import Tokens


@dataclass(frozen=True, slots=True)
class Assumed:
    """Shares of a GPU's peak that are reached. Assumptions: we have measured none."""

    mfu: float = 0.3  #: of the trainer
    sampling_mfu: float = 0.1  #: of vLLM


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds of one iteration, evaluations apart. None: nothing is known to compute it from."""

    sampling: float | None
    updating: float | None
    rest: float | None
    basis: str

    @property
    def total(self) -> float | None:
        """Seconds in all that is known; None if the engines' part is not."""
        if self.sampling is None or self.updating is None:
            return None
        return self.sampling + self.updating + (self.rest or 0.0)


def duration_of(config: TapoConfig, shape: ModelShape, machine: Machine, tokens: Tokens, assumed: Assumed) -> Duration:
    """Time of an iteration.

    FLOPs: 2 x parameters a token forward (sampling, scoring, the reference model of a KL term), 6 x training, 8 x with gradient
    checkpointing. Attention's own, which grow with the square of the length, and prompts that are read before sampling are not
    counted.
    """
    sampled, trained, epochs = tokens.sampled, tokens.trained_tokens, config.update.epochs
    if machine.gpu is None:
        if config.model.path != NANO or not _usual(config.nano):
            return Duration(None, None, None, "not known: only the built-in model was measured on a CPU")
        updating = (trained * epochs) / measured("updating").value
        basis = f"measured: {measured('sampling').command} ({measured('sampling').device}, {measured('sampling').date})"
        return Duration(sampled / measured("sampling").value, updating, measured("rest").value, basis)
    if machine.gpu.bf16_tflops is None or config.model.dtype != "bfloat16":
        return Duration(None, None, None, "not known: no peak in bfloat16 to estimate it from (--gpu, model.dtype)")
    layout = layout_of(config)
    peak = machine.gpu.bf16_tflops * 1e12
    engines = layout.replicas * layout.tensor_parallel
    sampling = 2.0 * shape.parameters * sampled / (engines * peak * assumed.sampling_mfu)
    passes = (8.0 if layout.checkpointing else 6.0) * epochs
    passes += 2.0 * epochs if config.update.kl_coefficient > 0.0 else 0.0
    work = shape.parameters * (passes * trained + 2.0 * tokens.scored_tokens)
    updating = work / (layout.ranks * peak * assumed.mfu)
    basis = (
        f"ESTIMATE from FLOPs, not measured: assumed {assumed.sampling_mfu:.0%} of the peak while sampling (--sampling-mfu) and "
        f"{assumed.mfu:.0%} while updating (--mfu)"
    )
    return Duration(sampling, updating, None, basis)


def _usual(nano: NanoConfig) -> bool:
    """Whether the built-in model has the shape that was measured."""
    names = ("hidden_size", "n_layers", "n_heads", "n_kv_heads", "ffn_size")
    return all(getattr(nano, name) == getattr(NanoConfig(), name) for name in names)
