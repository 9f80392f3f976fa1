"""One matrix of counts, and the scores that follow from it.

Count the matrix of each image with `confusion_matrix`, add the matrices of a set, and only then ask for a score: the
mean of the scores of single images is another number. All scores take any leading axes, so that many sets (the
resamples of a bootstrap) cost one call.
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from segwright.types import IGNORE_LABEL


def confusion_matrix(
    mask: UInt8[np.ndarray, "*S"],
    predicted: UInt8[np.ndarray, "..."],
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
) -> Int64[np.ndarray, "K K"]:
    """Number of pixels of each true class (row) that were given each class (column).

    Args:
        mask: Class of each pixel or voxel, 0 to `num_classes` - 1, or `ignore_label`.
        predicted: Class that the network chose, 0 to `num_classes` - 1, of the same shape.
        num_classes: Number of classes K, 1 to 255.
        ignore_label: Pixels of the mask with this label are not counted.

    Returns:
        Counts; their sum is the number of pixels that are not void.

    Raises:
        ValueError: If the shapes differ, or the mask or the prediction holds a class that does not exist.
    """
    if not 1 <= num_classes <= IGNORE_LABEL:
        raise ValueError(f"num_classes is {num_classes}, but uint8 masks hold 1 to {IGNORE_LABEL} classes")
    if mask.shape != predicted.shape:
        raise ValueError(
            f"the mask is {mask.shape}, but the prediction is {predicted.shape}; predict at the mask's size"
        )
    # Both bytes side by side are one index below 65536: no multiplication in 64 bits, and wrong classes cannot
    # spill into a neighbor's cell, so they are found in the counts instead of by a pass over the pixels.
    packed = mask.astype(np.uint16)
    packed <<= 8
    packed |= predicted
    counts = np.bincount(packed.ravel(), minlength=1 << 16).reshape(256, 256)
    _refuse_unknown(counts.sum(axis=0), "the prediction", num_classes)
    counts[ignore_label] = 0
    _refuse_unknown(counts.sum(axis=1), "the mask", num_classes)
    return counts[:num_classes, :num_classes].astype(np.int64)


def _refuse_unknown(pixels: Int64[np.ndarray, "256"], what: str, num_classes: int) -> None:
    if pixels[num_classes:].any():
        found = num_classes + int(np.flatnonzero(pixels[num_classes:])[0])
        raise ValueError(f"{what} holds class {found}, but there are {num_classes} classes, 0 to {num_classes - 1}")


def intersection_over_union(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """Intersection over union of each class: |P∩M| / |P∪M|; NaN for a class in neither mask nor prediction."""
    hits, masked, chosen = _marginals(confusion)
    return ratio(hits, masked + chosen - hits)


def dice(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """Dice coefficient of each class: 2 |P∩M| / (|P| + |M|); NaN for a class in neither mask nor prediction."""
    hits, masked, chosen = _marginals(confusion)
    return ratio(2 * hits, masked + chosen)


def precision(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """Share of the pixels given a class that are of that class; NaN for a class that was never predicted."""
    hits, _, chosen = _marginals(confusion)
    return ratio(hits, chosen)


def recall(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N K"]:
    """Share of the pixels of a class that were given that class; NaN for a class that no mask holds."""
    hits, masked, _ = _marginals(confusion)
    return ratio(hits, masked)


def pixel_accuracy(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N"]:
    """Share of all pixels that were given their class; NaN if all pixels are void."""
    hits, masked, _ = _marginals(confusion)
    return ratio(hits.sum(axis=-1), masked.sum(axis=-1))


def mean_accuracy(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N"]:
    """Mean of `recall` over the classes that occur in the masks."""
    return mean_of_present(recall(confusion))


def mean_iou(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N"]:
    """mIoU: mean of `intersection_over_union` over the classes that occur in masks or predictions."""
    return mean_of_present(intersection_over_union(confusion))


def mean_dice(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N"]:
    """Mean of `dice` over the classes that occur in masks or predictions, background included."""
    return mean_of_present(dice(confusion))


def frequency_weighted_iou(confusion: Int64[np.ndarray, "*N K K"]) -> Float64[np.ndarray, "*N"]:
    """Mean of `intersection_over_union`, each class weighted by its pixels in the masks; NaN if all pixels are void."""
    _, masked, _ = _marginals(confusion)
    iou = np.nan_to_num(intersection_over_union(confusion))  # a class in neither has the weight 0
    return ratio((masked * iou).sum(axis=-1), masked.sum(axis=-1))


def _marginals(
    confusion: Int64[np.ndarray, "*N K K"],
) -> tuple[Int64[np.ndarray, "*N K"], Int64[np.ndarray, "*N K"], Int64[np.ndarray, "*N K"]]:
    """|P∩M|, |M| and |P| of each class."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2)


def ratio(
    numerator: Int64[np.ndarray, "*N"] | Float64[np.ndarray, "*N"] | np.int64 | np.float64,
    denominator: Int64[np.ndarray, "*N"] | Float64[np.ndarray, "*N"] | np.int64 | np.float64,
) -> Float64[np.ndarray, "*N"]:
    """Quotient of sums of counts; NaN where the denominator is 0."""
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def mean_of_present(scores: Float64[np.ndarray, "*N K"]) -> Float64[np.ndarray, "*N"]:
    """Mean over the classes that have a score; NaN if none has."""
    # np.nanmean warns where all classes are absent; NaN is the right answer there.
    present = ~np.isnan(scores)
    count = present.sum(axis=-1)
    mean = np.full(np.shape(count), np.nan)
    np.divide(np.where(present, scores, 0.0).sum(axis=-1), count, out=mean, where=count > 0)
    return mean


class Confusion:
    """The scores of one confusion matrix over a set of images.

    Args:
        num_classes: Number of classes K, 1 to 255.
        ignore_label: Pixels of the mask with this label are not counted.

    Source: mean and frequency weighted IoU, pixel and mean accuracy, Long et al., FCN, CVPR 2015, section 5
    (https://arxiv.org/abs/1411.4038).
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in words."""
        return (
            "One confusion matrix over all pixels of all images; void pixels are left out; means are over the classes "
            "that occur (mean accuracy: in the masks), background included; frequency-weighted IoU weighs them by "
            "their pixels in the masks."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Int64[np.ndarray, "K K"]:
        """`confusion_matrix` of one image."""
        return confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)

    def scores(
        self, counts: Int64[np.ndarray, "*N K K"] | Float64[np.ndarray, "*N K K"]
    ) -> dict[str, Float64[np.ndarray, "..."]]:
        """Scores of summed matrices: one value a matrix, or one a class for iou, dice, precision and recall."""
        confusion = counts.astype(np.int64, copy=False)  # sums of whole numbers are whole in float64 as well
        return {
            "miou": mean_iou(confusion),
            "mean_dice": mean_dice(confusion),
            "pixel_accuracy": pixel_accuracy(confusion),
            "mean_accuracy": mean_accuracy(confusion),
            "frequency_weighted_iou": frequency_weighted_iou(confusion),
            "iou": intersection_over_union(confusion),
            "dice": dice(confusion),
            "precision": precision(confusion),
            "recall": recall(confusion),
        }


build = Confusion
