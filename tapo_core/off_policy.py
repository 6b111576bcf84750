"""How far the sampler's log-probabilities are from the trainer's: the data of an update are then slightly off-policy.

Over original rollouts, which were sampled under the prompt that they are scored under. With d_t = log p_trainer - log p_sampler
of a token (nats) and w = exp(d), the effective sample size of n weights is (sum w)^2 / sum w^2; as a share of n it is 1 where
trainer and sampler agree, and near 1/n where one weight is all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tapo_core.config_update import OffPolicyConfig


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Sampler against trainer, over all original rollouts of one update."""

    mean: float  #: of |d_t|, nats
    max: float  #: of |d_t|, nats
    ess_token: float  #: in (0, 1]; w of each token
    ess_sequence: float  #: in (0, 1]; w of each rollout, the product of its tokens'

    def alarms(self, config: OffPolicyConfig) -> list[str]:
        """What is above or below its threshold, one phrase each."""
        found = []
        if not self.mean <= config.alarm_mean:
            found.append(
                f"log-probabilities of sampler and trainer differ by {self.mean:.2g} nats a token on average, more than "
                f"off_policy.alarm_mean = {config.alarm_mean:g}"
            )
        if not self.ess_token >= config.alarm_ess:
            found.append(
                f"the effective sample size is {self.ess_token:.1%} of the tokens, less than "
                f"off_policy.alarm_ess = {config.alarm_ess:g}"
            )
        return found


def effective_share(log_weights: Sequence[float]) -> float:
    """(sum w)^2 / (n sum w^2) of w = exp(log_weights), in (0, 1]; computed relative to the largest, so that nothing overflows."""
    largest = max(log_weights)
    weights = [math.exp(value - largest) for value in log_weights]
    share = math.fsum(weights) ** 2 / (len(weights) * math.fsum(w * w for w in weights))
    return min(1.0, share)  # equal weights may come out an ulp above


def measure(sampled: Sequence[Sequence[float]], scored: Sequence[Sequence[float]]) -> Mismatch | None:
    """The mismatch of rollouts, given each one's log-probabilities by the sampler and by the trainer; None without tokens.

    (A sampler with top_p below 1 gives those of the cut distribution: what is measured is then the cut as well.)
    """
    rollouts = [[b - a for a, b in zip(x, y, strict=True)] for x, y in zip(sampled, scored, strict=True)]
    rollouts = [differences for differences in rollouts if differences]
    tokens = [difference for differences in rollouts for difference in differences]
    if not tokens:
        return None
    sizes = [abs(difference) for difference in tokens]
    return Mismatch(
        mean=math.fsum(sizes) / len(sizes),
        max=max(sizes),
        ess_token=effective_share(tokens),
        ess_sequence=effective_share([math.fsum(differences) for differences in rollouts]),
    )
