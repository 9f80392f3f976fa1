"""Boundary loss: a probability costs its pixel's distance to the border of the class."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from torch import Tensor, nn

from segwright.layers.distances import distance_to
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL


class Boundary(nn.Module):
    """Strength times the mean of p_c φ_c over the pixels that are not void and over the classes c other than 0.

    φ_c is the signed distance of `signed_distances`: positive outside class c, so that a probability costs the more
    the farther it is from where it belongs, and negative inside, so that a good answer costs less than 0. A class that
    an image lacks has no distances there and costs nothing, whatever is answered. The loss is therefore added to one
    over regions, as in `loss=generalized_dice+boundary`, with a strength that grows linearly over the run from `start`
    to `end`.

    The distances are those of the mask in the batch, after augmentation, not normalized by the size of the image. They
    are computed on the CPU, with one distance transform for each class that an image has; a GPU waits for them.
    Processes that train together divide by the pixels of all of them, as `CrossEntropy` does.

    Args:
        start: Strength at the start of the run, 0 or more.
        end: Strength at its end, 0 or more.
        spacing: Distance between neighboring pixels or voxels along each axis, in any unit, in the order of the axes
            of the mask; None for 1 pixel. The loss grows with the unit.
        ignore_label: Label of void pixels, which have no term, and to and from which no distance is measured.

    Raises:
        ValueError: If a strength is negative, or a spacing is not positive.

    Source: Kervadec et al., Boundary loss, MIDL 2019 (https://arxiv.org/abs/1812.07032), as in the authors' code
    (https://github.com/LIVIAETS/boundary-loss). There the strength grows by 0.01 an epoch.
    """

    strength: Tensor

    def __init__(
        self,
        start: float = 0.01,
        end: float = 1.0,
        spacing: tuple[float, ...] | None = None,
        *,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        for name, strength in (("start", start), ("end", end)):
            if not 0 <= strength < math.inf:
                raise ValueError(f"loss.boundary.{name} is {strength}, but a strength is 0 or more; try 1")
        if spacing is not None and not all(0 < step < math.inf for step in spacing):
            raise ValueError(
                f"loss.boundary.spacing is {spacing}, but distances between neighbors are positive; give one an axis"
            )
        self.start, self.end = start, end
        self.spacing = spacing
        self.ignore_label = ignore_label
        # Not persistent: it follows from the progress of the run.
        self.register_buffer("strength", torch.tensor(start), persistent=False)

    def anneal(self, progress: float) -> None:
        """Set the strength to what it is at a progress of the run from 0 to 1."""
        self.strength.fill_(self.start + (self.end - self.start) * progress)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void.

        Raises:
            ValueError: If the images have another number of axes than `spacing`.
        """
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        axes = mask.ndim - 1
        if self.spacing is not None and len(self.spacing) != axes:
            raise ValueError(f"loss.boundary.spacing is {self.spacing}, but the images have {axes} axes; give one each")
        total = scores.new_zeros(())
        for probabilities, image in zip(scores.softmax(dim=1), mask.cpu().numpy(), strict=True):
            classes, distances = signed_distances(image, self.ignore_label, self.spacing)
            own = probabilities.index_select(0, torch.from_numpy(classes).to(scores.device))  # C N
            total = total + (own * torch.from_numpy(distances).flatten(1).to(own)).sum()
        pixels = sum_over_processes((labels != self.ignore_label).sum().to(scores.dtype))
        terms = pixels * (scores.shape[1] - 1)
        return self.strength * total * num_processes() / terms.clamp(min=1)


def signed_distances(
    labels: Integer[np.ndarray, "*S"], ignore_label: int = IGNORE_LABEL, spacing: Sequence[float] | None = None
) -> tuple[Int64[np.ndarray, " C"], Float32[np.ndarray, "C *S"]]:
    """Signed distance of each pixel to the border of each class: D outside, step - D inside, 0 at void pixels.

    D is the distance to the nearest pixel of the class outside it, and to the nearest pixel of any other class inside
    it; void pixels are neither. The step is the smallest spacing, 1 pixel in the paper, so that the outermost pixels
    of a class have 0.

    Args:
        labels: Class of each pixel, or `ignore_label`.
        ignore_label: Label of void pixels.
        spacing: Distance between neighbors along each axis; None for 1 pixel.

    Returns:
        Classes other than 0 that have a border in the image, in ascending order, and their distances. There are none
        where one class fills the whole image.
    """
    void = labels == ignore_label
    present = np.flatnonzero(np.bincount(labels[~void]))  # P
    if len(present) < 2:
        return present[:0], np.zeros((0, *labels.shape), np.float32)
    owned = [labels == index for index in present]
    distances = np.stack([distance_to(own, spacing) for own in owned])  # P *S
    # The nearest pixel of any other class is the nearest of all classes but the pixel's own: no further transforms.
    to_other = np.full(labels.shape, np.inf, np.float32)
    for own, outside in zip(owned, distances, strict=True):
        np.minimum(to_other, outside, out=to_other, where=~own)
    inside = (1 if spacing is None else min(spacing)) - to_other
    for own, signed in zip(owned, distances, strict=True):
        np.copyto(signed, inside, where=own)
    np.copyto(distances, 0, where=void)
    first = int(present[0] == 0)
    return present[first:], distances[first:]


build = Boundary
