"""Maximum pooling that remembers where each maximum was, and its reverse, in a form that every engine can run."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def pool(x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C h w"], Int[Tensor, "B C h w"]]:
    """Halve the size, rounded up; the maxima of windows of 2 x 2 and their positions on the flattened map."""
    window = [min(2, side) for side in x.shape[-2:]]  # OpenVINO refuses a window that is larger than the map
    pooled, indices = F.max_pool2d(x, window, 2, ceil_mode=True, return_indices=True)  # B C H/2 W/2
    return pooled, indices


def unpool(
    x: Float[Tensor, "B C h w"], indices: Int[Tensor, "B C h w"], size: Sequence[int]
) -> Float[Tensor, "B C H W"]:
    """Put every value where the pooling had found it, on a map of `size` (height, width) that is zero elsewhere.

    This is `max_unpool2d`, which refuses to run under `torch.use_deterministic_algorithms`: here no two values meet.
    """
    height, width = size
    empty = x.new_zeros(*x.shape[:2], height * width)  # B C H·W
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).reshape(*x.shape[:2], height, width)  # B C H W
