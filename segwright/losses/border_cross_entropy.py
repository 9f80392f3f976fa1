"""Cross-entropy that counts the narrow gaps between instances many times: the weight map of U-Net."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Integer
from scipy import ndimage
from torch import Tensor, nn

from segwright.layers.class_weights import Balance, class_weights
from segwright.layers.components import connected_components
from segwright.layers.distances import distance_to
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL

_CUTOFF = 4
"""Sum of the two distances, in sigmas, past which the border term counts as 0; there it is below exp(-8) = 0.00034."""


class BorderCrossEntropy(nn.Module):
    """Mean of -w(x) log p_y(x) over the pixels x that are not void, with w = w_y + w0 exp(-(d1 + d2)² / 2σ²).

    d1 and d2 are the distances in pixels from x to the nearest and to the second nearest instance. An instance is a
    connected part of a class other than 0, over sides and corners, so that touching parts of one class are one
    instance and those of two classes are two. Only pixels of class 0 have the second term: inside an instance no gap
    is to be learned. Distances are between centers of pixels, so that the narrowest gap, 1 pixel wide, has
    d1 + d2 = 2. An image with fewer than two instances has no border term. Beyond d1 + d2 = 4σ the term is below
    0.00034 w0 and counts as 0.

    The mean is over the number of pixels, not over their weights, so that gaps raise the loss; the paper takes the
    sum. Processes that train together divide by the pixels of all of them, as `CrossEntropy` does. The border terms
    are computed on the CPU, with a distance transform in a window around each instance; a GPU waits for them.

    Args:
        border_weight: w0, the most that a gap adds to the weight of a pixel, 0 or more.
        sigma: σ in pixels, more than 0; at d1 + d2 = 2σ the term has fallen to 0.14 w0.
        balance: Rule for the weights w_y of the classes, see `layers.class_weights`.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which have no term and belong to no instance.

    Raises:
        ValueError: If `border_weight` is negative or `sigma` is not positive, if `balance` needs `class_shares` and
            they are missing, or if none of them is positive.

    Source: Ronneberger et al., U-Net, MICCAI 2015, eq. 1 and 2 (https://arxiv.org/abs/1505.04597).
    """

    weights: Tensor | None

    def __init__(
        self,
        border_weight: float = 10.0,
        sigma: float = 5.0,
        balance: Balance = "none",
        *,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        if not 0 <= border_weight < math.inf:
            raise ValueError(f"loss.border_cross_entropy.border_weight is {border_weight}, but it is 0 or more; try 10")
        if not 0 < sigma < math.inf:
            raise ValueError(f"loss.border_cross_entropy.sigma is {sigma}, but it is more than 0 pixels; try 5")
        self.border_weight = border_weight
        self.sigma = sigma
        self.ignore_label = ignore_label
        self.register_buffer("weights", class_weights(balance, class_shares), persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        costs = F.cross_entropy(scores, labels, ignore_index=self.ignore_label, reduction="none")  # B N, 0 where void
        terms = [border_term(image, self.sigma, self.ignore_label) for image in mask.cpu().numpy()]
        border = torch.from_numpy(np.stack(terms)).flatten(1).to(scores)  # B N
        valid = labels != self.ignore_label
        own = 1.0 if self.weights is None else self.weights.to(scores.dtype)[labels.where(valid, 0)]
        total = (costs * (own + self.border_weight * border)).sum()
        pixels = sum_over_processes(valid.sum().to(scores.dtype))
        return total * num_processes() / pixels.clamp(min=1)


def border_term(
    labels: Integer[np.ndarray, "*S"], sigma: float, ignore_label: int = IGNORE_LABEL
) -> Float32[np.ndarray, "*S"]:
    """exp(-(d1 + d2)² / 2σ²) at the pixels of class 0, and 0 at all others and past the cutoff.

    Args:
        labels: Class of each pixel, or `ignore_label`.
        sigma: σ in pixels.
        ignore_label: Label of void pixels.

    Returns:
        Values in [0, 1].
    """
    reach = _CUTOFF * sigma
    nearest = np.full(labels.shape, np.inf, np.float32)
    second = nearest.copy()
    # Past the reach of an instance its distance cannot matter, so that windows do instead of the whole image.
    for window, instance in _instances(labels, ignore_label, int(reach)):
        distance = distance_to(instance)
        first_there, second_there = nearest[window], second[window]
        np.minimum(second_there, np.maximum(first_there, distance), out=second_there)
        np.minimum(first_there, distance, out=first_there)
    total = nearest + second
    near = (labels == 0) & (total <= reach)
    term = np.zeros(labels.shape, np.float32)
    term[near] = np.exp(-np.square(total[near] / sigma) / 2)
    return term


def _instances(
    labels: Integer[np.ndarray, "*S"], ignore_label: int, margin: int
) -> Iterator[tuple[tuple[slice, ...], Bool[np.ndarray, "..."]]]:
    """Yields a window around each instance, `margin` pixels wider on all sides, and the instance's pixels in it."""
    present = np.flatnonzero(np.bincount(labels[labels != ignore_label]))
    for index in present[present > 0]:
        parts = connected_components(labels == index)
        for number, box in enumerate(ndimage.find_objects(parts), start=1):
            window = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
            yield window, parts[window] == number


build = BorderCrossEntropy
