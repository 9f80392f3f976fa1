"""Tversky and focal Tversky loss over the whole batch."""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.overlap import overlap_sums
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import sum_over_processes
from segwright.types import IGNORE_LABEL


class Tversky(nn.Module):
    """Mean over classes of (1 - T)^(1/gamma), where T = TP / (TP + alpha FP + beta FN).

    TP sums a class's probability over its pixels, FP over all other pixels; FN sums what is missing from 1 over its
    pixels. The sums are over the batch of all processes, the mean is over the classes that the masks of the batch have.
    T is the Dice coefficient for alpha = beta = 0.5 and intersection over union for alpha = beta = 1.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, above 0; above alpha, it makes the network find more at the price of more
            false alarms.
        gamma: Above 0; 1 for the Tversky loss, 4/3 in the paper of the focal Tversky loss. Above 1, the loss is steeper
            for classes that are almost right.
        include_background: Whether class 0 counts in the mean.
        ignore_label: Label of void pixels, which count in none of the sums.

    Raises:
        ValueError: If `alpha`, `beta` or `gamma` is out of its range.

    Source: Salehi et al., MLMI 2017 (https://arxiv.org/abs/1706.05721); gamma, Abraham and Khan, ISBI 2019
    (https://arxiv.org/abs/1810.07842), where alpha and beta have changed places and classes are added, not averaged.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        *,
        gamma: float = 1.0,
        include_background: bool = True,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ValueError(f"loss.tversky.alpha is {alpha}, but false positives weigh 0 or more; try 0.3")
        if not 0 < beta < math.inf:
            raise ValueError(f"loss.tversky.beta is {beta}, but false negatives weigh more than 0; try 0.7")
        if not 0 < gamma < math.inf:
            raise ValueError(f"loss.tversky.gamma is {gamma}, but 1/gamma is an exponent above 0; try 1")
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.first_class = 0 if include_background else 1
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if no class that counts is in the masks."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        sums = overlap_sums(scores.softmax(dim=1), labels, self.ignore_label).sum(dim=1)  # 3 K
        overlap, predicted, actual = sum_over_processes(sums)[:, self.first_class :].unbind()  # K each

        present = actual > 0
        # TP + alpha FP + beta FN, with FP = |P| - TP and FN = |M| - TP.
        total = (1 - self.alpha - self.beta) * overlap + self.alpha * predicted + self.beta * actual
        error = (1 - overlap / torch.where(present, total, 1.0)) * present  # K
        # At 0 the slope of a power below 1 is infinite.
        powers = error.clamp(min=torch.finfo(error.dtype).tiny) ** (1 / self.gamma) * (error > 0)
        return powers.sum() / present.sum().clamp(min=1)


build = Tversky
