"""Distances between the surfaces of masks and predictions: HD95, ASSD and the normalized surface Dice."""

import math
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.spatial import KDTree

from segwright.metrics.confusion import confusion_matrix, mean_of_present, ratio
from segwright.types import IGNORE_LABEL


class SurfaceDistances:
    """Surface distances of each class, measured image by image.

    - `hd95`: the larger of the two directed 95th percentiles of the distances from one surface to the other. The
      percentile of all distances together is another number, and may be 0 where this one is large.
    - `assd`: mean over the distances of both directions, so that the longer surface has the greater say.
    - `surface_dice`: share of the elements of both surfaces that lie within the tolerance of the other surface.
    - `missed_or_invented`: share of images, of those with the class in mask or prediction, where only one has it.

    The first three are means over the images where mask and prediction both hold the class. There is no distance to a
    surface that does not exist, and an infinite one in a single image would hide all others; read them together with
    `missed_or_invented`.

    An element of a surface is a pixel or voxel that shares a side with one of another class or lies at the border of
    the image. Void belongs to no class, in the prediction as in the mask, and gives its neighbors no surface: nobody
    knows what lies there. So masks that ring every object with void hold no surfaces to measure; `boundary_iou` reaches
    across the ring.

    Args:
        tolerance: Largest distance that `surface_dice` forgives, in the units of `spacing`.
        spacing: Units from one pixel or voxel to the next along each axis, in the order of the mask's axes; without
            it distances are in pixels.
        include_background: Whether class 0 counts in the means over classes.
        num_classes: Number of classes K.
        ignore_label: Label of void pixels.

    Raises:
        ValueError: If `tolerance` is negative or a spacing is not positive.

    Sources: Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy, 2018
    (https://arxiv.org/abs/1809.04430), for the surface Dice, here with every element of the same weight; Heimann et
    al., IEEE Transactions on Medical Imaging 28, 2009, for the average symmetric distance.
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset(
        {"hd95", "mean_hd95", "assd", "mean_assd", "missed_or_invented", "mean_missed_or_invented"}
    )
    distances: ClassVar[frozenset[str]] = frozenset({"hd95", "mean_hd95", "assd", "mean_assd"})

    def __init__(
        self,
        tolerance: float = 1.0,
        spacing: tuple[float, ...] | None = None,
        include_background: bool = True,
        *,
        num_classes: int,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"metric.surface.tolerance is {tolerance}, but it is a distance of 0 or more; try 1")
        if spacing is not None and not all(0 < step < math.inf for step in spacing):
            raise ValueError(
                f"metric.surface.spacing is {spacing}, but neighbors are more than 0 apart; give one positive number "
                "an axis"
            )
        self.tolerance = tolerance
        self.spacing = spacing
        self.include_background = include_background
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in the words of a report."""
        units = "pixels" if self.spacing is None else f"the units of the spacing {self.spacing}"
        return (
            f"Surface distances of each class, in {units}: HD95 is the larger of the two directed 95th percentiles, "
            "ASSD the mean over the distances of both directions, surface Dice the share of the elements of both "
            f"surfaces within {self.tolerance:g} of the other; all are means over the images where mask and "
            "prediction both hold the class, and missed_or_invented is the share of images where only one does. "
            "Surfaces are one pixel wide and include the image border; void pixels make none. "
            f"Means over classes {'include' if self.include_background else 'leave out'} class 0."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Float64[np.ndarray, "K 6"]:
        """Distances of one image.

        Args:
            mask: Class of each pixel or voxel, or `ignore_label`.
            predicted: Class that the network chose, of the same shape.

        Returns:
            Of each class: sums of HD95, ASSD and surface Dice, the number of images where they were measured, the
            number of images where only mask or prediction has the class, and where at least one has it.

        Raises:
            ValueError: If the shapes differ, a class does not exist, or the spacing is of another number of axes.
        """
        if self.spacing is not None and len(self.spacing) != mask.ndim:
            raise ValueError(
                f"metric.surface.spacing has {len(self.spacing)} numbers, but the mask has {mask.ndim} axes; give one "
                "number an axis"
            )
        confusion = confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)
        masked, chosen = confusion.any(axis=1), confusion.any(axis=0)  # K
        counts = np.zeros((self.num_classes, 6))
        counts[:, 4], counts[:, 5] = masked != chosen, masked | chosen
        step = np.asarray(self.spacing or 1.0)
        true, found = (
            surface_elements(labels, self.ignore_label, image_border=True)
            for labels in (mask, np.where(mask == self.ignore_label, mask, predicted))
        )
        for label in true.keys() & found.keys():
            counts[label, :4] = *self._compare(step * true[label], step * found[label]), 1
        return counts

    def _compare(
        self, true: Float64[np.ndarray, "M A"], found: Float64[np.ndarray, "P A"]
    ) -> tuple[float, float, float]:
        """HD95, ASSD and surface Dice of two surfaces."""
        to_true, to_found = KDTree(true).query(found)[0], KDTree(found).query(true)[0]
        distances = np.concatenate([to_true, to_found])
        # Multiples of a spacing such as 0.7 are a rounding error off; a tolerance of 2.1 must still take three steps.
        within = distances <= self.tolerance * (1 + 1e-9)
        hd95 = max(np.percentile(to_true, 95), np.percentile(to_found, 95))
        return float(hd95), float(distances.mean()), float(within.mean())

    def scores(self, counts: Float64[np.ndarray, "*N K 6"]) -> dict[str, Float64[np.ndarray, "..."]]:
        """Scores of each class and their means over the classes that have one; NaN where nothing was measured."""
        hd95, assd, surface_dice, measured, one_sided, occurs = np.moveaxis(counts, -1, 0)
        scores = {
            "hd95": ratio(hd95, measured),
            "assd": ratio(assd, measured),
            "surface_dice": ratio(surface_dice, measured),
            "missed_or_invented": ratio(one_sided, occurs),
        }
        first = 0 if self.include_background else 1
        return scores | {f"mean_{name}": mean_of_present(values[..., first:]) for name, values in scores.items()}


def surface(labels: UInt8[np.ndarray, "*S"], ignore_label: int, *, image_border: bool) -> Bool[np.ndarray, "*S"]:
    """Pixels or voxels that share a side with one of another class.

    Args:
        labels: Class of each pixel or voxel, or `ignore_label`.
        ignore_label: Void has no surface, and its neighbors have none towards it.
        image_border: Whether the outside of the image counts as another class.
    """
    known = labels != ignore_label
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        # Views with this axis in front; what is written to `touches` lands in `found`.
        classes, is_known, touches = (np.moveaxis(array, axis, 0) for array in (labels, known, found))
        differ = (classes[1:] != classes[:-1]) & is_known[1:] & is_known[:-1]
        touches[1:] |= differ
        touches[:-1] |= differ
        if image_border:
            touches[0], touches[-1] = is_known[0], is_known[-1]
    return found


def surface_elements(
    labels: UInt8[np.ndarray, "*S"], ignore_label: int, *, image_border: bool
) -> dict[int, Float64[np.ndarray, "_ A"]]:
    """Places of the elements of `surface`, in pixels along each axis, of each class that has any."""
    chosen = surface(labels, ignore_label, image_border=image_border)
    places, classes = np.argwhere(chosen).astype(np.float64), labels[chosen]
    return {int(label): places[classes == label] for label in np.unique(classes)}


build = SurfaceDistances
