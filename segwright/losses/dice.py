"""Soft Dice loss over the whole batch."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import sum_over_processes
from segwright.types import IGNORE_LABEL


class Dice(nn.Module):
    """One minus the mean over classes of 2 |P∩M| / (|P| + |M|), with sums over the batch of all processes.

    The mean is over the classes that the masks of the batch have.

    Args:
        include_background: Whether class 0 counts in the mean.
        ignore_label: Label of void pixels, which count neither in P nor in M.

    Source: Milletari et al., V-Net, 3DV 2016, eq. 3 (https://arxiv.org/abs/1606.04797), without the squares and with
    the sums over the batch.
    """

    def __init__(self, include_background: bool = True, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.include_background = include_background
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if no class that counts is in the masks."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        probabilities = scores.softmax(dim=1)  # B K N
        overlap, predicted, actual = self._sums(probabilities, labels)

        first = 0 if self.include_background else 1
        sums = sum_over_processes(torch.stack([overlap, predicted])[:, first:])  # 2 K
        actual = sum_over_processes(actual[first:])  # K
        present = actual > 0
        dice = 2 * sums[0] / torch.where(present, sums[1] + actual, 1.0)  # K
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1)

    def _sums(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """|P∩M|, |P| and |M| of each class, without a one-hot mask."""
        batch, classes, _ = probabilities.shape
        valid = labels != self.ignore_label
        index = torch.where(valid, labels, 0)  # B N
        own = probabilities.gather(1, index[:, None])[:, 0] * valid  # B N, the probability of the true class
        # One row of sums an image keeps the single-precision sums short.
        overlap = own.new_zeros(batch, classes).scatter_add(1, index, own).sum(dim=0)  # K
        actual = labels.new_zeros(batch, classes).scatter_add(1, index, valid.long()).sum(dim=0)  # K
        predicted = (probabilities @ valid[:, :, None].to(probabilities.dtype)).sum(dim=(0, 2))  # K
        return overlap, predicted, actual.to(probabilities.dtype)


build = Dice
