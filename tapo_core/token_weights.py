"""OOD token suppression (OTS), on constructed trajectories only.

    s_t = log p(y_t | x, y_<t) + H[p(. | x, y_<t)]        w_t = clamp(exp(s_t), 0.01, 10.0)

A token as likely as the policy is uncertain there has s_t near 0 and weight near 1; a token the policy would hardly have
written is suppressed. No token is masked: the erroneous prefix is trained on too. (Paper: bounds 0.01 and 10.0.)
"""

import math
from collections.abc import Sequence

from tapo_core.config import TokenWeightConfig


def ood_token_weights(
    logprobs_T: Sequence[float], entropies_T: Sequence[float], config: TokenWeightConfig
) -> list[float]:
    """Weights of one trajectory's response tokens, from log-probabilities and entropies in nats.

    Raises:
        ValueError: the lists differ in length.
    """
    if not config.enabled:
        return [1.0] * len(logprobs_T)
    # The exponent is bounded first: exp of a large s_t would overflow before the clamp.
    ceiling = math.log(config.max_weight)
    return [
        max(config.min_weight, math.exp(min(logprob + entropy, ceiling)))
        for logprob, entropy in zip(logprobs_T, entropies_T, strict=True)
    ]
