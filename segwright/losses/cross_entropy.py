"""Cross-entropy, with weights for rare classes and smoothed labels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.class_weights import Balance, class_weights
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL


class CrossEntropy(nn.Module):
    """Mean of -w_y log p_y over the pixels that are not void, divided by the mean of their weights w_y.

    Processes that train together divide by the weights of all their pixels, so that the average of their losses and
    of their gradients is that of one process with the whole batch.

    Args:
        balance: Rule for the weights of the classes, see `layers.class_weights`.
        label_smoothing: Share of each pixel's label that is spread evenly over all classes, from 0 to 1.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which do not count.

    Raises:
        ValueError: If `balance` needs `class_shares` and they are missing, or if none of them is positive.

    Source: label smoothing, Szegedy et al., CVPR 2016 (https://arxiv.org/abs/1512.00567).
    """

    weights: Tensor | None

    def __init__(
        self,
        balance: Balance = "none",
        label_smoothing: float = 0.0,
        *,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.ignore_label = ignore_label
        self.register_buffer("weights", class_weights(balance, class_shares), persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        weights = None if self.weights is None else self.weights.to(scores.dtype)
        total = F.cross_entropy(
            scores,
            labels,
            weight=weights,
            ignore_index=self.ignore_label,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        valid = labels != self.ignore_label
        counted = valid.sum().to(scores.dtype) if weights is None else (weights[labels.where(valid, 0)] * valid).sum()
        weight = sum_over_processes(counted)
        return total * num_processes() / torch.where(weight > 0, weight, 1.0)


build = CrossEntropy
