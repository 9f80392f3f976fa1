"""Boundary IoU: intersection over union of the rims of masks, which errors along contours move the most."""

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from segwright.metrics.confusion import confusion_matrix, mean_of_present, ratio
from segwright.types import IGNORE_LABEL


class BoundaryIoU:
    """Intersection over union of the rims of each class: |M_d ∩ P_d| / |M_d ∪ P_d|, with sums over the set.

    The rim M_d is what d erosions with a 3 x 3 square take away from the pixels of the class: those at most d steps,
    straight or diagonal, from another class or from the outside of the image. d is `dilation_ratio` times the image
    diagonal, rounded, and at least 1.

    Void belongs to no rim, in the prediction as in the mask, and erodes nothing: a class loses the pixels near the
    next class behind the void, not those near the void. Volumes are eroded with a cube.

    As for mIoU, the counts of all images are summed before the ratio; the mean over images is another number.

    Args:
        dilation_ratio: Width d of the rims as a share of the image diagonal.
        num_classes: Number of classes K.
        ignore_label: Label of void pixels.

    Raises:
        ValueError: If `dilation_ratio` is not in (0, 1].

    Source: Cheng et al., Boundary IoU, CVPR 2021 (https://arxiv.org/abs/2103.16562); the width, its rounding and the
    image border as in the authors' code (https://github.com/bowenc0221/boundary-iou-api).
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, dilation_ratio: float = 0.02, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        if not 0 < dilation_ratio <= 1:
            raise ValueError(
                f"metric.boundary_iou.dilation_ratio is {dilation_ratio}, but it is a share of the image diagonal, "
                "above 0 and at most 1; try 0.02"
            )
        self.dilation_ratio = dilation_ratio
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in the words of a report."""
        return (
            f"Boundary IoU: rims are {100 * self.dilation_ratio:g} % of the image diagonal wide, rounded to pixels and "
            "at least 1, also along the image border but not along void; intersections and unions are summed over all "
            "images."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Float64[np.ndarray, "K 2"]:
        """Rims of one image.

        Args:
            mask: Class of each pixel or voxel, or `ignore_label`.
            predicted: Class that the network chose, of the same shape.

        Returns:
            Of each class: the number of pixels in the rims of both mask and prediction, and in at least one of them.

        Raises:
            ValueError: If the shapes differ or a class does not exist.
        """
        confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)  # refuses what does not fit together
        predicted = np.where(mask == self.ignore_label, mask, predicted)
        width = max(1, round(self.dilation_ratio * math.hypot(*mask.shape)))
        true, found = (_rim(labels, width, self.ignore_label) for labels in (mask, predicted))
        shared = true & found & (mask == predicted)
        both, in_mask, in_predicted = (
            np.bincount(labels, minlength=self.num_classes) for labels in (mask[shared], mask[true], predicted[found])
        )  # K
        return np.stack([both, in_mask + in_predicted - both], axis=-1).astype(np.float64)

    def scores(self, counts: Float64[np.ndarray, "*N K 2"]) -> dict[str, Float64[np.ndarray, "..."]]:
        """Boundary IoU of each class, NaN for a class that does not occur, and its mean over those that do."""
        iou = ratio(counts[..., 0], counts[..., 1])
        return {"boundary_iou": iou, "mean_boundary_iou": mean_of_present(iou)}


def _rim(labels: UInt8[np.ndarray, "*S"], width: int, ignore_label: int) -> Bool[np.ndarray, "*S"]:
    """Pixels at most `width` steps, straight or diagonal, from another class or from the outside of the image.

    A pixel is not in the rim of its class if the lowest and the highest class around it are the same: two filters
    answer for all classes at once.
    """
    void = labels == ignore_label
    lowest = _over_windows(np.minimum, np.where(void, np.uint8(255), labels), width)
    highest = _over_windows(np.maximum, np.where(void, np.uint8(0), labels), width)
    rim: Bool[np.ndarray, "*S"] = ~void
    rim[tuple(slice(width, -width) for _ in labels.shape)] &= lowest != highest
    return rim


def _over_windows(extreme: np.ufunc, labels: UInt8[np.ndarray, "*S"], reach: int) -> UInt8[np.ndarray, "..."]:
    """Lowest or highest label of each window of 2 `reach` + 1 a side that lies inside; empty if none does."""
    for axis in range(labels.ndim):
        rows = np.moveaxis(labels, axis, 0)
        span = 1
        while span <= 2 * reach:
            step = min(span, 2 * reach + 1 - span)
            rows = extreme(rows[:-step], rows[step:])  # windows of `span`, `step` apart, make one of span + step
            span += step
        labels = np.moveaxis(rows, 0, axis)
    return labels


build = BoundaryIoU
