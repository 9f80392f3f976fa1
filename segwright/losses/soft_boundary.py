"""Cross-entropy with labels that are soft near borders, where annotators are unsure by a pixel."""

import itertools
import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int16, Integer
from torch import Tensor, nn

from segwright.layers.class_weights import Balance, class_weights
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL

_CUTOFF = 3
"""Distance in sigmas past which the Gaussian counts as 0."""


class SoftBoundary(nn.Module):
    """Mean of -w_y Σ_c t_c log p_c over the pixels that are not void, divided by the mean of their weights w_y.

    t is the mask, as one map a class, convolved with a Gaussian, see `soften`; y is the class in the mask. Soft labels
    are made only for the pixels near a border; all others have the terms of `CrossEntropy`, which this loss equals
    where `sigma` is 0. Processes that train together divide by the weights of all their pixels, as `CrossEntropy` does.

    Args:
        sigma: Standard deviation of the Gaussian in pixels, 0 or more; borders are usually sure to 0.5 to 1 pixel. The
            work grows with the number of pixels inside 3 sigma.
        balance: Rule for the weights of the classes, see `layers.class_weights`.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which have no term and no part in the labels of their neighbors.

    Raises:
        ValueError: If `sigma` is negative, if `balance` needs `class_shares` and they are missing, or if none of them
            is positive.

    Source: Islam and Glocker, Spatially Varying Label Smoothing, IPMI 2021 (https://arxiv.org/abs/2104.05788), whose
    kernel is 3 x 3 and gives the pixel itself as much as all its neighbors; here it is the plain Gaussian.
    """

    weights: Tensor | None

    def __init__(
        self,
        sigma: float = 0.75,
        balance: Balance = "none",
        *,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        if not 0 <= sigma < math.inf:
            raise ValueError(f"loss.soft_boundary.sigma is {sigma}, but it is 0 pixels or more; try 0.75")
        self.sigma = sigma
        self.ignore_label = ignore_label
        self.register_buffer("weights", class_weights(balance, class_shares), persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        costs = F.cross_entropy(scores, labels, ignore_index=self.ignore_label, reduction="none")  # B N, 0 where void
        valid = labels != self.ignore_label
        if self.weights is None:
            weights = valid.to(scores.dtype)  # B N
        else:
            weights = self.weights.to(scores.dtype)[labels.where(valid, 0)] * valid

        near, shares = soften(mask, scores.shape[1], self.sigma, self.ignore_label)  # B *S, M K
        image, pixel = near.flatten(1).nonzero(as_tuple=True)  # M each
        beside = scores[image, :, pixel]  # M K
        # As the shares sum to 1, the cost of a soft label differs from that of a sharp one by a sum over the logits.
        own = beside.gather(1, labels[image, pixel, None])[:, 0]  # M
        change = own - (shares.to(beside.dtype) * beside).sum(dim=1)
        total = (costs * weights).sum() + (change * weights[image, pixel]).sum()
        weight = sum_over_processes(weights.sum())
        return total * num_processes() / torch.where(weight > 0, weight, 1.0)


def soften(
    mask: Integer[Tensor, "B *S"], num_classes: int, sigma: float, ignore_label: int = IGNORE_LABEL
) -> tuple[Bool[Tensor, "B *S"], Float[Tensor, "M K"]]:
    """Label of each pixel near a border, shared with the classes of the pixels around it by a Gaussian of the distance.

    The shares are those of the neighbors that are not void, so that void gives nothing and takes nothing. Past an edge
    of the image its outermost pixels go on. The Gaussian ends at a distance of 3 sigma: farther from all pixels of
    other classes than that, a label stays as it is.

    Args:
        mask: Class of each pixel, 0 to `num_classes` - 1, or `ignore_label`.
        num_classes: Number of classes K.
        sigma: Standard deviation in pixels; below 1/3 no neighbor is in reach.
        ignore_label: Label of void pixels.

    Returns:
        Where M pixels are that are not void and among them all whose label changes, and their shares, which sum to 1
        over K, in the order in which indexing with the first gives pixels.
    """
    radius = int(_CUTOFF * sigma)
    labels = mask.to(torch.int16)
    labels = labels.where(labels != ignore_label, num_classes)  # void is one class more until the end
    padded = _pad(labels, radius)
    near = _has_other_labels(padded, radius) & (labels != num_classes)

    # Where a pixel is in the image, the first corner of the window around it is in the padded one.
    strides = torch.tensor(padded.stride(), device=mask.device)
    corners, flat = (near.nonzero() * strides).sum(dim=1), padded.flatten()
    shares = torch.zeros(len(corners), num_classes + 1, device=mask.device)  # M K+1
    for step in itertools.product(range(2 * radius + 1), repeat=mask.ndim - 1):
        distance = math.dist(step, [radius] * len(step))
        if distance <= _CUTOFF * sigma:
            height = math.exp(-((distance / sigma) ** 2) / 2) if distance else 1.0
            offset = sum(places * stride for places, stride in zip(step, padded.stride()[1:], strict=True))
            neighbors = flat.index_select(0, corners + offset).long()  # M
            shares.scatter_add_(1, neighbors[:, None], shares.new_full((len(corners), 1), height))
    shares = shares[:, :num_classes]
    return near, shares / shares.sum(dim=1, keepdim=True)


def _pad(labels: Int16[Tensor, "B *S"], radius: int) -> Int16[Tensor, "B *P"]:
    """The image with its outermost pixels repeated `radius` times on each side."""
    for axis, length in enumerate(labels.shape[1:], start=1):
        places = torch.arange(-radius, length + radius, device=labels.device).clamp(0, length - 1)
        labels = labels.index_select(axis, places)
    return labels


def _has_other_labels(padded: Int16[Tensor, "B *P"], radius: int) -> Bool[Tensor, "B *S"]:
    """Whether the labels around each pixel of the image, up to `radius` along each axis, are not all the same."""
    highest = lowest = padded
    for axis in range(1, padded.ndim):
        length = padded.shape[axis] - 2 * radius
        highest = reduce(torch.maximum, (highest.narrow(axis, first, length) for first in range(2 * radius + 1)))
        lowest = reduce(torch.minimum, (lowest.narrow(axis, first, length) for first in range(2 * radius + 1)))
    return highest != lowest


build = SoftBoundary
