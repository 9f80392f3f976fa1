"""Soft Dice loss over the whole batch or image by image."""

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.overlap import overlap_sums
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL


class Dice(nn.Module):
    """One minus the mean over classes of 2 |P∩M| / (|P| + |M|), with sums over the batch of all processes.

    The mean is over the classes that the masks of the batch have.

    Args:
        include_background: Whether class 0 counts in the mean.
        per_image: Whether the sums are over each image by itself. The mean is then over all pairs of an image and a
            class that its mask has.
        squared: Whether |P| sums the squares of the probabilities.
        ignore_label: Label of void pixels, which count neither in P nor in M.

    Source: Milletari et al., V-Net, 3DV 2016, eq. 3 (https://arxiv.org/abs/1606.04797), which has the squares and the
    sums over each image.
    """

    def __init__(
        self,
        include_background: bool = True,
        *,
        per_image: bool = False,
        squared: bool = False,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        self.first_class = 0 if include_background else 1
        self.per_image = per_image
        self.squared = squared
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if no class that counts is in the masks."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        # One row of sums an image keeps the single-precision sums short.
        sums = overlap_sums(scores.softmax(dim=1), labels, self.ignore_label, squared=self.squared)  # 3 B K
        if not self.per_image:
            sums = sum_over_processes(sums.sum(dim=1, keepdim=True))  # 3 1 K
        overlap, predicted, actual = sums[:, :, self.first_class :].unbind()  # B K or 1 K each

        present = actual > 0
        dice = 2 * overlap / torch.where(present, predicted + actual, 1.0)
        # Divided by what a process has on average, the losses of the processes have the mean over all of their images.
        count = sum_over_processes(present.sum().to(dice.dtype)) / num_processes()
        return ((1 - dice) * present).sum() / torch.where(count > 0, count, 1.0)


build = Dice
