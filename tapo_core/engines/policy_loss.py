"""OpenRLHF's loss for each group: `PolicyLoss`, on original rollouts with the off-policy correction and on constructed ones
without; or `SFTLoss` on these, for the ablation that fine-tunes on them.
"""

from typing import TYPE_CHECKING, Any

from tapo_core.config_update import OffPolicyConfig, UpdateConfig
from tapo_core.records import AdvantageGroup

if TYPE_CHECKING:
    import torch

#: OpenRLHF's level and mode of each named correction; its gate is the ratio in all three.
_SCHEMES = {
    "off": ("off", "mask"),
    "tis": ("token", "clip"),
    "icepop": ("token", "mask"),
    "seq-mask-tis": ("seq", "mask"),
}


def policy_losses(update: UpdateConfig, off_policy: OffPolicyConfig) -> dict[AdvantageGroup, Any]:
    """The loss function of each group. Constructed trajectories have no log-probabilities of a sampler: it saw another prompt."""
    from openrlhf.models import PolicyLoss

    def loss(correction: str) -> Any:
        level, mode = _SCHEMES[correction]
        return PolicyLoss(
            clip_eps_low=update.clip_low,
            clip_eps_high=update.clip_high,
            token_level_loss=update.loss_aggregation == "token",
            is_correction_level=level,
            is_correction_mode=mode,
            is_correction_threshold=[off_policy.low, off_policy.high],
        )

    constructed = _LogLikelihood(update) if update.constructed_loss == "log_likelihood" else loss("off")
    return {AdvantageGroup.ORIGINAL: loss(off_policy.correction), AdvantageGroup.CONSTRUCTED: constructed}


class _LogLikelihood:
    """-A log p of each token, where A has the token's weight in it: called like `PolicyLoss`, and answers like it."""

    def __init__(self, update: UpdateConfig) -> None:
        from openrlhf.models import SFTLoss

        self._loss = SFTLoss(token_level_loss=update.loss_aggregation == "token")

    def __call__(
        self,
        log_probs: "torch.Tensor",
        old_log_probs: "torch.Tensor",
        advantages: "torch.Tensor",
        action_mask: "torch.Tensor",
        rollout_log_probs: "torch.Tensor",
        dp_size: int,
        **totals: float,
    ) -> tuple[Any, ...]:
        """Loss, share of clipped tokens (none is), KL from the sampling policy (mean of -log ratio), and PolicyLoss's two of the
        off-policy correction, which constructed trajectories do not have. All tensors are [B, T-1].
        """
        from openrlhf.models.utils import masked_mean

        loss = self._loss(log_probs * advantages, action_mask, dp_size=dp_size, **totals)
        kl = masked_mean((old_log_probs - log_probs).detach(), action_mask)
        return loss, 0.0, kl, None, None


def n_outside(old: "torch.Tensor", sampled: "torch.Tensor", chosen: "torch.Tensor", config: OffPolicyConfig) -> float:
    """How many units of a micro-batch have a weight outside [low, high]: tokens, or rollouts for seq-mask-tis.

    All arguments [B, T-1]; `chosen` marks the original rollouts' tokens. Counted here: OpenRLHF's own share takes rows of
    the other group for dropped ones.
    """
    difference = (old - sampled) * chosen
    if config.correction == "seq-mask-tis":
        sizes = chosen.sum(dim=-1)
        units = sizes > 0
        ratio = (difference.sum(dim=-1) / sizes.clamp(min=1)).exp()
    else:
        units, ratio = chosen.bool(), difference.exp()
    return float((((ratio < config.low) | (ratio > config.high)) & units).sum())
