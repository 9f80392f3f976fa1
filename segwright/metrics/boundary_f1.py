"""BF score: how much of the contours is found, and how much of what is found is a contour."""

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.spatial import KDTree

from segwright.metrics.confusion import confusion_matrix, mean_of_present, ratio
from segwright.metrics.surface import surface_elements
from segwright.types import IGNORE_LABEL


class BoundaryF1:
    """BF score of each class: F = 2 P R / (P + R) of its contours, image by image, then the mean over images.

    P is the share of the predicted contour that lies within θ of the mask's contour, R the share of the mask's contour
    that lies within θ of the predicted one. Every image counts whose mask or prediction holds the class. Where only one
    of them holds it, or has a contour of it, F is 0; where both hold it and neither has a contour, F is 1.

    The contour of a class is its pixels that share a side with a pixel of another class. Neither the image border nor
    void makes a contour: what lies behind them is not known, and a border that mask and prediction share would be
    found without any effort. So masks that ring every object with void hold few contours; `boundary_iou` reaches
    across the ring.

    Args:
        tolerance: θ as a share of the image diagonal; a distance of exactly θ still counts.
        num_classes: Number of classes K.
        ignore_label: Label of void pixels.

    Raises:
        ValueError: If `tolerance` is not in (0, 1].

    Source: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013
    (https://doi.org/10.5244/C.27.32). How contours behave at the image border and at void is ours.
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, tolerance: float = 0.0075, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        if not 0 < tolerance <= 1:
            raise ValueError(
                f"metric.boundary_f1.tolerance is {tolerance}, but it is a share of the image diagonal, above 0 and at "
                "most 1; try 0.0075"
            )
        self.tolerance = tolerance
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in the words of a report."""
        return (
            f"BF score: contours match within {100 * self.tolerance:g} % of the image diagonal; F = 2PR / (P + R) of "
            "each class and image, 0 where only mask or prediction has the class or a contour of it, 1 where both have "
            "the class and neither a contour; mean over the images where mask or prediction has the class. The image "
            "border and void pixels make no contours."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Float64[np.ndarray, "K 2"]:
        """F of one image.

        Args:
            mask: Class of each pixel or voxel, or `ignore_label`.
            predicted: Class that the network chose, of the same shape.

        Returns:
            Of each class: the sum of F, and the number of images where mask or prediction holds the class.

        Raises:
            ValueError: If the shapes differ or a class does not exist.
        """
        confusion = confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)
        masked, chosen = confusion.any(axis=1), confusion.any(axis=0)  # K
        reach = self.tolerance * math.hypot(*mask.shape)
        true, found = (
            surface_elements(labels, self.ignore_label, image_border=False)
            for labels in (mask, np.where(mask == self.ignore_label, mask, predicted))
        )
        counts = np.zeros((self.num_classes, 2))
        counts[:, 1] = masked | chosen
        for label in map(int, np.flatnonzero(masked & chosen)):
            if label in true and label in found:
                counts[label, 0] = _f1(true[label], found[label], reach)
            else:
                counts[label, 0] = label not in true and label not in found
        return counts

    def scores(self, counts: Float64[np.ndarray, "*N K 2"]) -> dict[str, Float64[np.ndarray, "..."]]:
        """BF score of each class, NaN for a class in no image, and its mean over the classes that have one."""
        f1 = ratio(counts[..., 0], counts[..., 1])
        return {"boundary_f1": f1, "mean_boundary_f1": mean_of_present(f1)}


def _f1(true: Float64[np.ndarray, "M A"], found: Float64[np.ndarray, "P A"], reach: float) -> float:
    """F of two contours, none of them empty."""
    precision, recall = _share_near(found, true, reach), _share_near(true, found, reach)
    # Either both are 0 or neither is: a pixel that finds a partner is the partner of that one.
    return 2 * precision * recall / (precision + recall) if precision else 0.0


def _share_near(places: Float64[np.ndarray, "P A"], others: Float64[np.ndarray, "M A"], reach: float) -> float:
    """Share of the places with another one within reach."""
    # The tree leaves out the bound itself; the billionth lets it in, and forgives the rounding of the diagonal.
    distances = KDTree(others).query(places, distance_upper_bound=reach * (1 + 1e-9))[0]
    return float(np.isfinite(distances).mean())


build = BoundaryF1
