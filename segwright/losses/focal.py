"""Focal loss: cross-entropy in which pixels that are already right count less."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.class_weights import Balance, class_weights
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL


class Focal(nn.Module):
    """Mean of -w_y (1 - p_y)^gamma log p_y over the pixels that are not void, those of all processes.

    The mean divides by the number of pixels, not by the sum of their weights. The weights w stand in for the paper's
    alpha: they are those of `balance`, divided by what a pixel of the training set weighs on average. So a batch rich
    in rare classes counts more, while over the whole training set balancing does not change the size of the loss.

    Args:
        gamma: Exponent of what p_y lacks to 1, at least 0; 0 gives cross-entropy.
        balance: Rule for the weights of the classes, see `layers.class_weights`.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which do not count.

    Raises:
        ValueError: If `gamma` is negative, if `balance` needs `class_shares` and they are missing, or if none of them
            is positive.

    Source: Lin et al., ICCV 2017 (https://arxiv.org/abs/1708.02002), with softmax instead of a sigmoid for each class
    and with the number of pixels in the place of the number of anchors assigned to an object.
    """

    weights: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        balance: Balance = "none",
        *,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ValueError(f"loss.focal.gamma is {gamma}, but the exponent is 0 or more; try 2")
        self.gamma = gamma
        self.ignore_label = ignore_label
        weights = class_weights(balance, class_shares)
        if weights is not None and class_shares is not None:
            weights = weights / (weights * torch.tensor(class_shares)).sum()
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        costs = F.cross_entropy(scores, labels, ignore_index=self.ignore_label, reduction="none")  # B N, 0 where void
        missing = -torch.expm1(-costs)  # B N, 1 - p
        # At 0 the slope of a power below 1 is infinite.
        costs = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** self.gamma * costs
        valid = labels != self.ignore_label
        if self.weights is not None:
            costs = costs * self.weights.to(costs.dtype)[labels.where(valid, 0)]
        pixels = sum_over_processes(valid.sum().to(costs.dtype))
        return costs.sum() * num_processes() / torch.where(pixels > 0, pixels, 1.0)


build = Focal
