"""Normalization of raw pixel values."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class Normalization(nn.Module):
    """(value - mean) / standard deviation, for each channel.

    It is part of the segmenter, not of the reading, so that no exported file can come without it.

    Args:
        mean: Mean of each channel in raw values.
        std: Standard deviation of each channel in raw values; 0 counts as 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        safe = [value if value > 0 else 1.0 for value in std]
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])  # C 1 1
        self.register_buffer("std", torch.tensor(safe, dtype=torch.float32)[:, None, None])  # C 1 1

    def forward(self, image: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalized values as float32."""
        return (image.float() - self.mean) / self.std
