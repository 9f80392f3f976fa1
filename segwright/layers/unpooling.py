"""Maximum pooling that remembers where each maximum was, and its reverse, in a form that every engine can run."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def pool(
    x: Float[Tensor, "B C H W"], *, is_even: bool = False
) -> tuple[Float[Tensor, "B C h w"], Int[Tensor, "B C h w"]]:
    """Halve the size, rounded up; the maxima of windows of 2 x 2 and their positions on the flattened map.

    Args:
        x: Maps.
        is_even: Whether both sides are known to be even, which saves a copy of the map.
    """
    windows = x
    if not is_even:
        # One pixel more makes every window a whole one, as OpenVINO wants them where a map is a single pixel wide.
        height, width = ((side + 1) // 2 * 2 for side in x.shape[2:])
        windows = F.pad(x, (0, 1, 0, 1), value=-torch.inf)[:, :, :height, :width]
    pooled = F.max_pool2d(windows, 2)  # B C H/2 W/2
    return pooled, _positions(windows.detach(), pooled.detach(), x.shape[3])


def _positions(x: Tensor, pooled: Tensor, width: int) -> Tensor:
    """Where the maxima are, the first of equal ones. With what `max_pool2d` tells, OpenVINO takes 7 times as long.

    Args:
        x: Maps of which two pixels a side make a window.
        pooled: Maximum of each window.
        width: Pixels of a row of the flattened map, which may lack the last one of `x`.
    """
    first, right, below = (x[:, :, row::2, column::2] == pooled for row, column in ((0, 0), (0, 1), (1, 0)))
    step = torch.full((1,), width, dtype=torch.int64, device=x.device)  # from a row to the next
    rows, columns = (torch.arange(side, device=x.device) for side in pooled.shape[2:])
    corner = 2 * (rows[:, None] * step + columns)  # h w
    in_first_row = torch.where(first, corner, corner + 1)  # B C h w
    in_second_row = torch.where(below, corner + step, corner + step + 1)
    return torch.where(first | right, in_first_row, in_second_row)  # B C h w


def unpool(
    x: Float[Tensor, "B C h w"], indices: Int[Tensor, "B C h w"], size: Sequence[int]
) -> Float[Tensor, "B C H W"]:
    """Put every value where the pooling had found it, on a map of `size` (height, width) that is zero elsewhere.

    This is `max_unpool2d`, which refuses to run under `torch.use_deterministic_algorithms`: here no two values meet.
    """
    height, width = size
    empty = x.new_zeros(*x.shape[:2], height * width)  # B C H·W
    return empty.scatter(2, indices.flatten(2), x.flatten(2)).reshape(*x.shape[:2], height, width)  # B C H W
