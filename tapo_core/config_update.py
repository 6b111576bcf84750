"""The sections of the configuration that say how a policy is updated."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapo_core.config_section import OPERATES, PositiveInt, Probability, Section, fixed

_ADAPTERS = fixed("the optimizer's state is of the adapters as they are")


class UpdateConfig(Section):
    """Stage 6, update step."""

    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Optimizer steps of linear warm-up, after which the rate is constant. Adam's first steps have the size of the rate
    whatever the gradient is; without warm-up they damage a cold-started model."""
    lambda_constructed: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the constructed group's loss. *paper*: 1.0"""
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the KL divergence from the initial model (estimator k3, a token), added to the loss of both groups.
    0 = off, and the initial model is then not held (unstated in the paper)."""
    train_prefix: bool = True
    """Whether the kept erroneous prefix of a constructed trajectory has a loss. *paper*: true; false is the ablation that
    only conditions on it."""
    train_diagnosis: bool = True
    """Whether its diagnosis has a loss. false (ours; needs train_prefix = false): only the correction is learnt, given an error
    and its diagnosis, and whether to reflect at all is left to the rewards of the original group."""
    constructed_loss: Literal["clipped", "log_likelihood"] = "clipped"
    """What is minimised on constructed trajectories. clipped: the objective of the original group (*paper*). log_likelihood:
    minus the mean of advantage x weight x log p, without ratio or clip; with advantage.constructed_scope = "raw",
    filter.require_correct = true and token_weight.enabled = false that is supervised fine-tuning on the correct
    constructions, the ablation."""
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    clip_high: Annotated[float, Field(gt=0.0)] = 0.2
    loss_aggregation: Literal["token", "sequence"] = "token"
    """Mean over all tokens of a group, or over sequences of their token means."""
    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1
    """Optimizer steps per epoch; trajectories are dealt to them by a seeded shuffle."""
    micro_batch_tokens: Annotated[PositiveInt, OPERATES] = 16384
    """Padded tokens in one forward and backward pass."""
    score_chunk_tokens: Annotated[PositiveInt, OPERATES] = 1024
    """Tokens whose logits (4 bytes x vocabulary each) exist at one time; does not change the gradient."""
    gradient_checkpointing: Annotated[bool, OPERATES] = False
    """Whether each layer's activations are computed again in the backward pass instead of being kept; does not change the
    gradient."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    adam_betas: tuple[Probability, Probability] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    zero_stage: Annotated[Literal[0, 1, 2, 3], OPERATES] = 0
    offload: Annotated[Literal["none", "optimizer"], OPERATES] = "none"
    """optimizer: Adam's state is held and stepped in main memory; needs zero_stage 1, 2 or 3."""
    lora_rank: Annotated[int, Field(ge=0), _ADAPTERS] = 0
    """Above 0, only low-rank adapters (LoRA) of this rank are trained, and hf/ has the weights with them merged in."""
    lora_alpha: Annotated[float, Field(gt=0.0), _ADAPTERS] = 32.0
    """The adapters' product is scaled by lora_alpha / lora_rank."""
    lora_targets: Annotated[Literal["all-linear"] | tuple[str, ...], _ADAPTERS] = "all-linear"
    """Names of the linear layers that get adapters, such as ["q_proj", "v_proj"]; all-linear: each but the output layer."""
    keep_optimizer_states: Annotated[PositiveInt, OPERATES] = 2
    """DeepSpeed checkpoints kept, newest first. Weights of every policy version are kept."""

    @property
    def one_step(self) -> bool:
        """Whether an update is a single optimizer step: the policy that it changes is then the one that its data are from."""
        return self.epochs * self.minibatches == 1

    @model_validator(mode="after")
    def _combinations(self) -> "UpdateConfig":
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError(
                'update.offload = "optimizer" needs update.zero_stage 1, 2 or 3: ZeRO is what moves the state'
            )
        if self.train_prefix and not self.train_diagnosis:
            raise ValueError(
                "update.train_diagnosis = false needs update.train_prefix = false: what comes before has no loss"
            )
        if not self.lora_targets or "lm_head" in self.lora_targets:
            raise ValueError("update.lora_targets: name some linear layers, and not the output layer lm_head")
        return self


class OffPolicyConfig(Section):
    """The sampler computes log-probabilities a little otherwise than the trainer: how far they may be apart, and what is done
    about it (docs/operate.md)."""

    correction: Literal["off", "tis", "icepop", "seq-mask-tis"] = "off"
    """Importance weights w = p(trainer) / p(sampler) on the loss of original rollouts, as in OpenRLHF. tis: a token's w, brought
    into [low, high]; icepop: a token's w, and 0 outside [low, high]; seq-mask-tis: a token's w, and 0 on every token of a
    rollout whose geometric mean of w is outside. Constructed trajectories were not sampled under their prompt: w = 1."""
    low: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    high: Annotated[float, Field(ge=1.0)] = 5.0
    alarm_mean: Annotated[float, Field(gt=0.0), OPERATES] = 0.05
    """Mean absolute difference of log-probabilities (nats a token of original rollouts) above which an update says so in the log
    and the iteration's report. float32 is near 1e-6."""
    alarm_ess: Annotated[Probability, OPERATES] = 0.9
    """The same for an effective sample size of the tokens, as a share of their number, below this. 1 = no difference."""
