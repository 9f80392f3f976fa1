"""Mirroring of images at their borders, by any width: context for convolutions without padding."""

import torch
from jaxtyping import Float
from torch import Tensor


def mirror(x: Float[Tensor, "B C h w"], top: int, bottom: int, left: int, right: int) -> Float[Tensor, "B C H W"]:
    """Continue an image beyond its borders by its mirror image; the border pixel itself is not repeated.

    Unlike `reflect` of `torch.nn.functional.pad`, the border may be wider than the image, which is then mirrored
    again and again.

    Args:
        x: Images.
        top: Rows that are added above.
        bottom: Rows that are added below.
        left: Columns that are added on the left.
        right: Columns that are added on the right.
    """
    rows = _mirrored(x.shape[-2], top, bottom, x.device)
    columns = _mirrored(x.shape[-1], left, right, x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def _mirrored(length: int, before: int, after: int, device: torch.device) -> Tensor:
    """Index of the pixel that each position shows: a triangle wave with a period of twice the length but two."""
    # As a tensor, because the exporters cannot translate a remainder by a number that is not known yet.
    period = torch.full((1,), 2 * length - 2, dtype=torch.int64, device=device).clamp(min=1)
    position = torch.remainder(torch.arange(-before, length + after, device=device), period)
    return torch.minimum(position, period - position)
