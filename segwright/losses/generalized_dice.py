"""Generalized Dice loss: one ratio for all classes, in which small classes weigh as much as large ones."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.overlap import overlap_sums
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import sum_over_processes
from segwright.types import IGNORE_LABEL


class GeneralizedDice(nn.Module):
    """1 - 2 Σ w |P∩M| / Σ w (|P| + |M|), where both sums are over the classes and w = 1/|M|².

    |P|, |M| and |P∩M| are sums over the batch of all processes. A class that the masks of the batch lack, whose weight
    would be 1/0, does not count.

    Args:
        include_background: Whether class 0 counts.
        ignore_label: Label of void pixels, which count neither in P nor in M.

    Source: Sudre et al., DLMIA 2017 (https://arxiv.org/abs/1707.03237).
    """

    def __init__(self, include_background: bool = True, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.first_class = 0 if include_background else 1
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if no class that counts is in the masks."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        sums = overlap_sums(scores.softmax(dim=1), labels, self.ignore_label).sum(dim=1)  # 3 K
        overlap, predicted, actual = sum_over_processes(sums)[:, self.first_class :].unbind()  # K each

        present = actual > 0
        weights = present / torch.where(present, actual, 1.0).square()  # K
        total = (weights * (predicted + actual)).sum()
        dice = 2 * (weights * overlap).sum() / torch.where(total > 0, total, 1.0)
        return (1 - dice) * present.any()


build = GeneralizedDice
