"""V_Rand and V_Info: how well cells are kept apart by the membranes between them."""

from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int32, UInt8
from scipy import ndimage

from segwright.layers.components import connected_components
from segwright.metrics.confusion import confusion_matrix, ratio
from segwright.metrics.panoptic import count_overlaps
from segwright.types import IGNORE_LABEL

_NAMES = ("v_rand", "v_rand_split", "v_rand_merge", "v_info", "v_info_split", "v_info_merge")


class Membrane:
    """The foreground-restricted Rand and information scores of the ISBI 2012 challenge, averaged over images.

    Cells are the connected components of what is not membrane, with neighbors side by side (4 in 2-D, 6 in 3-D).
    Counted are the pixels of the true cells only. p is the share of them in true cell j and predicted cell i, s and t
    are its sums over j and i, I(s; t) = H(s) + H(t) - H(p) is the mutual information, H the entropy:

    - v_rand = Σ p² / (Σ s² / 2 + Σ t² / 2), v_rand_split = Σ p² / Σ t², v_rand_merge = Σ p² / Σ s²
    - v_info = I / (H(s) / 2 + H(t) / 2), v_info_split = I / H(s), v_info_merge = I / H(t), each 1 where it is 0 / 0

    Wrong splits of a cell lower the split scores, wrong mergers the merge scores.

    A predicted membrane also covers pixels of true cells. With `thinning` each of them joins the nearest predicted
    cell, so that the width of the membranes does not matter; of several that are equally near, scipy's choice. Without,
    each is a cell of its own, as in the challenge. Void pixels are not counted and belong to no cell on either side, so
    that predictions there change nothing; a cell that void cuts in two is two.

    What differs from the challenge: it thins borders to lines of one pixel, whose pixels are then cells of their own;
    it takes the best of several thresholds of the membrane's probability, as `membrane_threshold` does, where here the
    classes are those that the segmenter chose; and its V_Info is 0 where mask and prediction are one cell each.

    Args:
        membrane: Class of the membranes; all others are inside of cells.
        thinning: Whether predicted cells grow over the predicted membranes.
        num_classes: Number of classes K.
        ignore_label: Void pixels of the mask.

    Raises:
        ValueError: If `membrane` is not a class.

    Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics,
    Frontiers in Neuroanatomy 2015 (https://doi.org/10.3389/fnana.2015.00142).
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, membrane: int = 0, thinning: bool = True, *, num_classes: int, ignore_label: int = IGNORE_LABEL
    ) -> None:
        if not 0 <= membrane < num_classes:
            raise ValueError(
                f"metric.membrane.membrane is {membrane}, but there are {num_classes} classes, 0 to {num_classes - 1}; "
                "give the class of the membranes"
            )
        self.membrane = membrane
        self.thinning = thinning
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    @property
    def protocol(self) -> str:
        """What is computed, in words."""
        lonely = "joins the nearest predicted cell" if self.thinning else "is a cell of its own"
        return (
            "V_Rand and V_Info (F-scores, alpha 0.5) with their split and merge scores, over the pixels of true cells; "
            f"cells are the components of all classes but {self.membrane} whose pixels lie side by side, cut at void "
            f"pixels; a pixel that is predicted to be membrane {lonely}; classes as predicted, without a search for "
            "the best threshold; one value an image, then the mean over the images that have a cell."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Float64[np.ndarray, "7"]:
        """The six scores of the image and a 1, or only zeros if the mask has no cell."""
        confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)  # refuses what does not fit
        valid = mask != self.ignore_label
        cells = connected_components((mask != self.membrane) & valid, "faces")
        found = connected_components((predicted != self.membrane) & valid, "faces")
        if self.thinning:
            found = grow_cells(found)
        inside = cells > 0
        if not inside.any():
            return np.zeros(len(_NAMES) + 1)
        return np.array([*compare_cells(cells[inside], found[inside]), 1.0])

    def scores(self, counts: Float64[np.ndarray, "*N 7"]) -> dict[str, Float64[np.ndarray, "*N"]]:
        """Means over the images; NaN if none has a cell."""
        return {name: ratio(counts[..., index], counts[..., -1]) for index, name in enumerate(_NAMES)}


def grow_cells(cells: Int32[np.ndarray, "*S"]) -> Int32[np.ndarray, "*S"]:
    """Cells after each pixel outside (0) joined the nearest one; unchanged if there is none."""
    if not cells.any():
        return cells  # the nearest of none is not defined in scipy
    nearest = ndimage.distance_transform_edt(cells == 0, return_distances=False, return_indices=True)
    return np.asarray(cells[tuple(nearest)])


def compare_cells(
    cells: Int32[np.ndarray, "N"], found: Int32[np.ndarray, "N"]
) -> tuple[float, float, float, float, float, float]:
    """The scores v_rand, v_rand_split, v_rand_merge, v_info, v_info_split and v_info_merge.

    Args:
        cells: True cell of each pixel that counts, from 1.
        found: Predicted cell, from 1; each 0 is a cell of its own.
    """
    alone = found == 0
    singles = int(found.max()) + np.cumsum(alone)  # N, a new number at each 0
    true, predicted, pixels = count_overlaps(cells, np.where(alone, singles, found))
    joint = pixels / cells.size
    of_true, of_predicted = np.bincount(true, pixels) / cells.size, np.bincount(predicted, pixels) / cells.size

    together, same_true, same_predicted = (float((shares**2).sum()) for shares in (joint, of_true, of_predicted))
    true_bits, predicted_bits = _entropy(of_true), _entropy(of_predicted)
    information = max(0.0, true_bits + predicted_bits - _entropy(joint))
    return (
        2 * together / (same_true + same_predicted),
        together / same_true,
        together / same_predicted,
        _share(2 * information, true_bits + predicted_bits),
        _share(information, predicted_bits),
        _share(information, true_bits),
    )


def _entropy(shares: Float64[np.ndarray, "Q"]) -> float:
    """Entropy in bits of shares that sum to 1."""
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def _share(information: float, entropy: float) -> float:
    """Part of an entropy that is explained; all of it if there is none."""
    return information / entropy if entropy > 0 else 1.0


build = Membrane
