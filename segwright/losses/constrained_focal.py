"""Constrained focal loss: cross-entropy of two classes with weights from the batch at hand."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL

_EPSILON = 1e-8


class ConstrainedFocal(nn.Module):
    """Mean of -w log(p_y + 1e-8) over the pixels that are not void, for a background (0) and one foreground (1).

        w = (number of background pixels / number of foreground pixels)^(1 / beta) in the foreground, 1 elsewhere

    The numbers are those of the batch of all processes, without void. A batch without foreground has the weight 1
    everywhere; one of foreground alone has 0 and teaches nothing. In spite of the name there is no factor
    (1 - p_y)^γ, and the mean is over pixels, not over weights.

    CFL*, the second form of the authors, gives the weight of the foreground to a border around it, too: to the pixels
    that are `border_px` pixels away along one axis. What the mask says there, and the numbers above, stay as they are.

    Args:
        beta: Root of the ratio that is the weight, more than 0; a larger one brings the weight closer to 1.
        border_px: Distance in pixels over which CFL* spreads the weight, 3 in the authors' code; 0 for the plain loss.
        ignore_label: Label of void pixels, which have no weight and give none to others.

    Raises:
        ValueError: If `beta` is not positive or `border_px` is negative.

    Source: Zhao et al., IEEE Access 7:165029, 2019, as in the authors' code (https://github.com/ydfkaf/CFL). There CFL*
    shifts a batch as one tall image, so that the border of one image reaches into the next; here it ends with the
    image.
    """

    def __init__(self, beta: float = 2.0, border_px: int = 0, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"loss.constrained_focal.beta is {beta:g}, but a root must be positive; try 2")
        if border_px < 0:
            raise ValueError(f"loss.constrained_focal.border_px is {border_px}, but must not be negative; try 3")
        self.beta = beta
        self.border_px = border_px
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void.

        Raises:
            ValueError: If there are not two classes.
        """
        classes = logits.shape[1]
        if classes != 2:
            raise ValueError(f"loss.constrained_focal is for 2 classes, but the logits have {classes}; try loss=focal")
        scores, labels = flatten_pixels(logits, mask)  # B 2 N, B N
        valid = labels != self.ignore_label
        labels = labels.where(valid, 0)
        foreground = labels == 1  # B N
        weighted = spread(foreground.view_as(mask), self.border_px).flatten(1)  # B N

        counts = torch.stack([valid.sum(), foreground.sum()]).to(scores.dtype)  # 2
        num_valid, num_foreground = sum_over_processes(counts).unbind()
        weight = ((num_valid - num_foreground) / num_foreground.clamp(min=1)) ** (1 / self.beta)

        probabilities = scores.softmax(dim=1).gather(1, labels[:, None])[:, 0]  # B N
        costs = -torch.log(probabilities + _EPSILON)
        total = (torch.where(weighted, weight, 1.0) * valid * costs).sum()
        return total * num_processes() / num_valid.clamp(min=1)


def spread(region: Bool[Tensor, "B *S"], distance_px: int) -> Bool[Tensor, "B *S"]:
    """The region and its copies shifted by a distance both ways along each axis; what leaves the image is lost."""
    union = region.clone()
    for axis in range(1, region.ndim):
        length = region.shape[axis] - distance_px
        if length > 0:
            union.narrow(axis, distance_px, length).logical_or_(region.narrow(axis, 0, length))
            union.narrow(axis, 0, length).logical_or_(region.narrow(axis, distance_px, length))
    return union


build = ConstrainedFocal
