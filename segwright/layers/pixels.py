"""Logits and mask as rows of pixels, the way losses count them."""

import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor


def flatten_pixels(
    logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]
) -> tuple[Float[Tensor, "B K N"], Int64[Tensor, "B N"]]:
    """All spatial axes as one; half precision becomes single precision, in which sums of exponentials are safe.

    Raises:
        ValueError: If the spatial sizes differ.
    """
    check_sizes(logits, mask)
    # The kernels of softmax are faster on contiguous maps than on channels-last ones, copy included.
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32), memory_format=torch.contiguous_format)
    return scores.flatten(2), mask.long().flatten(1)


def check_sizes(logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> None:
    """Refuse logits and masks of different spatial sizes.

    Raises:
        ValueError: If the spatial sizes differ.
    """
    if logits.shape[2:] != mask.shape[1:]:
        raise ValueError(f"logits are {tuple(logits.shape[2:])}, but the mask is {tuple(mask.shape[1:])}; resize one")
