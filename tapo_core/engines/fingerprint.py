"""A fingerprint of a model's weights that does not depend on how an engine joins, pads or names its tensors.

Every weight's bits are scrambled together with the weight's place in its tensor, and the results of all tensors are added up,
modulo 2^64. One changed weight, by however little, gives another fingerprint, and so do two heads of an attention layer in each
other's place. A weight of zero adds nothing, so that a padded vocabulary changes nothing.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Weights that are scrambled at a time: small enough for a processor's cache, and for what is free on a GPU.
_CHUNK = {"cpu": 2**18, "cuda": 2**22}

#: Odd, with bits that look random (of splitmix64), as a signed 64-bit integer.
_FACTOR = 0xBF58476D1CE4E5B9 - 2**64


def fingerprint(tensors: "Iterable[torch.Tensor]") -> int:
    """The fingerprint of tensors of any shapes and devices, float32 or bfloat16; their order is of no matter."""
    import torch

    total = 0
    for tensor in tensors:
        bits = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
        first = 0
        for piece in tensor.detach().reshape(-1).view(bits).split(_CHUNK[tensor.device.type]):
            scrambled = piece.to(torch.int64).mul_(_FACTOR)
            scrambled ^= scrambled >> 32
            end = first + len(piece)
            scrambled *= torch.arange(2 * first + 1, 2 * end + 1, 2, device=tensor.device)
            scrambled ^= scrambled >> 29
            total += int(scrambled.sum())
            first = end
    return total % 2**64
