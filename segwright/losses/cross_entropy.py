"""Cross-entropy, with weights for rare classes and smoothed labels."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL

Balance = Literal["none", "median_frequency", "inverse_log"]


class CrossEntropy(nn.Module):
    """Mean of -w_y log p_y over the pixels that are not void, divided by the mean of their weights w_y.

    Processes that train together divide by the weights of all their pixels, so that the average of their losses and
    of their gradients is that of one process with the whole batch.

    Args:
        balance: Weights of the classes: "none" for 1 each, "median_frequency" for median share / share, "inverse_log"
            for 1 / ln(1.02 + share). A class without any pixel in the training set has the weight 0 in the last two.
        label_smoothing: Share of each pixel's label that is spread evenly over all classes, from 0 to 1.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which do not count.

    Raises:
        ValueError: If `balance` needs `class_shares` and they are missing, or if none of them is positive.

    Source: median frequency, Eigen and Fergus, ICCV 2015 (https://arxiv.org/abs/1411.4734), with shares over the whole
    training set; inverse logarithm, Paszke et al., ENet, 2016 (https://arxiv.org/abs/1606.02147); label smoothing,
    Szegedy et al., CVPR 2016 (https://arxiv.org/abs/1512.00567).
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
        if balance != "none" and class_shares is None:
            raise ValueError(f"balance '{balance}' came without class_shares; give the share of each class or 'none'")
        self.label_smoothing = label_smoothing
        self.ignore_label = ignore_label
        weights = None if balance == "none" or class_shares is None else class_weights(class_shares, balance)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        if logits.shape[2:] != mask.shape[1:]:
            raise ValueError(
                f"logits are {tuple(logits.shape[2:])}, but the mask is {tuple(mask.shape[1:])}; resize one"
            )
        # The kernels of log-softmax are faster on contiguous maps than on channels-last ones, copy included.
        scores = logits.to(torch.float32, memory_format=torch.contiguous_format).flatten(2)  # B K N
        labels = mask.long().flatten(1)  # B N
        total = F.cross_entropy(
            scores,
            labels,
            weight=self.weights,
            ignore_index=self.ignore_label,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        weight = sum_over_processes(self._sum_of_weights(labels))
        return total * num_processes() / torch.where(weight > 0, weight, 1.0)

    def _sum_of_weights(self, labels: Tensor) -> Tensor:
        valid = labels != self.ignore_label
        if self.weights is None:
            return valid.sum().float()
        return (self.weights[torch.where(valid, labels, 0)] * valid).sum()


def class_weights(class_shares: Sequence[float], balance: Balance) -> Float[Tensor, " K"]:
    """Weights of the classes from their shares in the training pixels, as `CrossEntropy` describes them.

    Raises:
        ValueError: If no share is positive.
    """
    shares = torch.tensor(class_shares, dtype=torch.float64)  # K
    present = shares > 0
    if not present.any():
        raise ValueError("class_shares has no positive share; are all masks of the training set void?")
    if balance == "none":
        weights = torch.ones_like(shares)
    elif balance == "median_frequency":
        weights = torch.where(present, shares[present].quantile(0.5) / shares, 0.0)
    else:
        weights = torch.where(present, 1 / torch.log(1.02 + shares), 0.0)
    return weights.float()


build = CrossEntropy
