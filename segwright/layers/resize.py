"""Sizes of maps: bilinear resizing, and the check that every network makes of its input."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def resize(x: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Resize bilinearly to `size` (height, width), pixels being areas (`align_corners=False`)."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def resize_logits(logits: Float[Tensor, "B K h w"], size: Sequence[int]) -> Float[Tensor, "B K H W"]:
    """Resize as `resize` does, in single precision and class by class, whatever the type and layout that come in.

    The losses need this precision and layout anyway, and the enlargement is quick in them.
    """
    return resize(logits.to(torch.float32, memory_format=torch.contiguous_format), size)


def check_sides(image: Float[Tensor, "B C H W"], stride: int, network: str) -> None:
    """Refuse an image whose sides are not multiples of the network's stride.

    Raises:
        ValueError: If a side is not a multiple of `stride` in pixels; the message has the size to pad to.
    """
    height, width = image.shape[-2:]
    if height % stride or width % stride:
        to_height, to_width = (-(-side // stride) * stride for side in (height, width))
        raise ValueError(
            f"image is {height} x {width}, but {network} needs sides that are multiples of {stride}; "
            f"pad to {to_height} x {to_width} or use predict(), which pads"
        )
