"""Lovász-Softmax loss: one minus the intersection over union, made continuous."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segwright.layers.pixels import flatten_pixels
from segwright.types import IGNORE_LABEL


class LovaszSoftmax(nn.Module):
    """Mean over classes of the Lovász extension of 1 - IoU, taken at the errors of the pixels.

    The error of a pixel for class c is e = 1 - p_c where the mask says c, and e = p_c elsewhere. With the pixels in the
    order of falling errors, the loss of the class is

        sum over i of e_i (J_i - J_{i-1}),    J_i = 1 - IoU if just the first i pixels were wrong,    J_0 = 0.

    Where all probabilities are 0 or 1 this is 1 - IoU. The mean is over the classes that the masks of the batch have.
    The authors fine-tune networks that cross-entropy has trained; from the start on, use the sum of both
    (`loss=cross_entropy+lovasz_softmax`).

    Void pixels are outside of every set and every sum. Each of several processes sorts the pixels of its own part of
    the batch: the IoU is that of the part.

    Args:
        per_image: Whether the IoU is that of one image at a time, over the classes that its mask has, instead of that
            of the whole batch; the loss is then the mean over the images that are not all void.
        ignore_label: Label of void pixels.

    Source: Berman et al., CVPR 2018, eqs. 8, 9 and 11 (https://arxiv.org/abs/1705.08790). The authors' code takes the
    differences J_i - J_{i-1} of rounded numbers and counts an image of void alone as a loss of 0.
    """

    def __init__(self, per_image: bool = False, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.per_image = per_image
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if all pixels are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        void = labels == self.ignore_label
        labels = labels.where(~void, 0)
        errors = _errors(scores.softmax(dim=1), labels)  # B K N
        if not self.per_image:
            errors = errors.transpose(0, 1).flatten(1)[None]  # 1 K B·N
            labels, void = labels.flatten()[None], void.flatten()[None]  # 1 B·N

        groups, classes, _ = errors.shape
        slopes = torch.empty_like(errors)  # G K N
        for group in range(groups):
            for index in range(classes):
                own = (labels[group] == index) & ~void[group]
                slopes[group, index] = jaccard_slopes(errors[group, index].detach(), own, void[group])
        # A class without pixels has no slopes, so that its loss is 0.
        losses = (errors * slopes).sum(dim=(1, 2))  # G
        present = (labels.new_zeros(groups, classes).scatter_add(1, labels, (~void).long()) > 0).sum(dim=1)  # G
        return (losses / present.clamp(min=1)).sum() / (present > 0).sum().clamp(min=1)


def _errors(probabilities: Float[Tensor, "B K N"], labels: Integer[Tensor, "B N"]) -> Float[Tensor, "B K N"]:
    """Distance of each probability from what the mask says."""
    index = labels[:, None]  # B 1 N
    return probabilities.scatter(1, index, 1 - probabilities.gather(1, index))


def jaccard_slopes(
    errors: Float[Tensor, " N"], own: Bool[Tensor, " N"], void: Bool[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Growth of a class's 1 - IoU with each pixel that turns wrong, while pixels do so in the order of falling errors.

    Args:
        errors: Error of each pixel for the class, at least 0.
        own: Whether the mask has the class at each pixel.
        void: Whether each pixel is void.

    Returns:
        The growth at each pixel, 0 at void pixels; its sum is 1, or 0 if the class has no pixels.
    """
    # Numbers from 0 up sort like their bits; torch sorts a rising row of whole numbers by radix on a CPU, which is many
    # times faster than by comparison. Void pixels come last, where the intersection is empty, and so have no slope and
    # take nobody's rank.
    bits = errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)
    order = (-bits).masked_fill(void, 1).argsort()  # N
    own = own[order]
    wrong = own.cumsum(dim=0)  # N, pixels of the class among the first i
    intersection = (wrong[-1] - wrong).to(errors.dtype)
    union = intersection + torch.arange(1, len(order) + 1, device=order.device)

    # A pixel of the class leaves the intersection, another joins the union. The differences of the quotients in closed
    # form: those of rounded quotients lose most digits when an image has millions of pixels.
    slopes = torch.where(own, 1 / union, intersection / (union * (union - 1)).clamp(min=1))
    return torch.empty_like(slopes).scatter_(0, order, slopes)


build = LovaszSoftmax
