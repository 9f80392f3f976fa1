"""Expected calibration error: how far the probabilities are from the share of pixels that are right."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from segwright.metrics.confusion import confusion_matrix, ratio
from segwright.types import IGNORE_LABEL


class Calibration:
    """Difference between confidence and accuracy, over pixels in bins of equal width of the confidence.

    The confidence of a pixel is its largest probability, it is right if that is of its true class (the first of
    several that are equally large). With n pixels in bin b, of mean confidence c and share of right ones a:

    - ece = Σ n |a - c| / Σ n, expected calibration error
    - mce = largest |a - c| of the bins that have pixels, maximum calibration error
    - mean_confidence = mean confidence of all pixels

    Args:
        num_bins: Number of bins M; bin b has the confidences above b / M up to (b + 1) / M.
        num_classes: Number of classes K.
        ignore_label: Void pixels of the mask, which are not counted.

    Raises:
        ValueError: If `num_bins` is not positive.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equations 2 to 5
    (https://arxiv.org/abs/1706.04599).
    """

    takes_probabilities: ClassVar[bool] = True
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"ece", "mce"})
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, num_bins: int = 15, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        if num_bins < 1:
            raise ValueError(f"metric.calibration.num_bins is {num_bins}, but one bin or more are needed; try 15")
        self.num_bins = num_bins
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in words."""
        return (
            f"Calibration of the largest probability of each pixel in {self.num_bins} bins of equal width, over all "
            "pixels of all images that are not void: ece is the mean difference between confidence and accuracy of the "
            "bins, weighted by their pixels, mce the largest of a bin that has pixels."
        )

    def count(
        self, mask: UInt8[np.ndarray, "*S"], probabilities: Float32[np.ndarray, "..."]
    ) -> Float64[np.ndarray, "M 3"]:
        """Number of pixels, sum of their confidences and number of right ones in each bin.

        Args:
            mask: Class of each pixel or voxel, 0 to K - 1, or `ignore_label`.
            probabilities: (K, *S), summing to 1 over K.

        Raises:
            ValueError: If the shapes do not fit, or the mask holds a class that does not exist.
        """
        if probabilities.shape != (self.num_classes, *mask.shape):
            raise ValueError(
                f"the probabilities are {probabilities.shape}, but the mask asks for "
                f"{(self.num_classes, *mask.shape)}; give one probability a class and pixel"
            )
        confidence, chosen = _largest(probabilities)
        confusion_matrix(mask, chosen, self.num_classes, self.ignore_label)  # refuses classes that do not exist
        valid = mask != self.ignore_label
        confidence = confidence[valid]  # N
        right = chosen[valid] == mask[valid]  # N
        bins = np.ceil(confidence * self.num_bins).astype(np.int64) - 1
        np.clip(bins, 0, self.num_bins - 1, out=bins)
        by_answer = np.bincount(2 * bins + right, minlength=2 * self.num_bins).reshape(-1, 2)  # M, wrong and right
        sums = np.bincount(bins, confidence, self.num_bins)
        return np.stack([by_answer.sum(axis=1), sums, by_answer[:, 1]], axis=-1).astype(np.float64)  # M 3

    def scores(self, counts: Float64[np.ndarray, "*N M 3"]) -> dict[str, Float64[np.ndarray, "*N"]]:
        """Scores of summed bins; NaN without pixels."""
        pixels, confidence, right = np.moveaxis(counts, -1, 0)  # *N M
        gap = np.abs(right - confidence)
        total = pixels.sum(axis=-1)
        largest = np.nan_to_num(ratio(gap, pixels)).max(axis=-1)
        return {
            "ece": ratio(gap.sum(axis=-1), total),
            "mce": np.where(total > 0, largest, np.nan),
            "mean_confidence": ratio(confidence.sum(axis=-1), total),
        }


def _largest(
    probabilities: Float32[np.ndarray, "K *S"],
) -> tuple[Float32[np.ndarray, "*S"], UInt8[np.ndarray, "*S"]]:
    """Largest probability of each pixel, and the first class that has it."""
    # One class after the other reads memory in its order; np.argmax over the first axis takes several times as long.
    largest = probabilities[0].copy()
    chosen = np.zeros(largest.shape, np.uint8)
    for index in range(1, len(probabilities)):
        chosen[probabilities[index] > largest] = index
        np.maximum(largest, probabilities[index], out=largest)
    return largest, chosen


build = Calibration
