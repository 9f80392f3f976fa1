"""V_Rand and V_Info at the best threshold of the membrane's probability, as the ISBI 2012 challenge counts."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from segwright.metrics.membrane import Membrane
from segwright.types import IGNORE_LABEL


class MembraneThreshold:
    """The scores of `Membrane` where a pixel is membrane if its probability is above a threshold.

    A gap of a pixel in a membrane merges two cells, so that thresholds below one half, which close gaps and thicken
    membranes, often keep cells apart better. The threshold is the one with the largest mean V_Rand over the images
    that are scored, the same for all of them, so that the score flatters a little; the challenge does so too.

    Args:
        membrane: Class of the membranes; all others are inside of cells.
        thinning: Whether predicted cells grow over the predicted membranes, see `Membrane`.
        thresholds: Probabilities that are tried, from 0 to 1.
        num_classes: Number of classes K.
        ignore_label: Void pixels of the mask.

    Raises:
        ValueError: If `membrane` is not a class, or there is no threshold, or one is not from 0 to 1.

    Source: Arganda-Carreras et al., Crowdsourcing the creation of image segmentation algorithms for connectomics,
    Frontiers in Neuroanatomy 2015 (https://doi.org/10.3389/fnana.2015.00142).
    """

    takes_probabilities: ClassVar[bool] = True
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        membrane: int = 0,
        thinning: bool = True,
        thresholds: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        *,
        num_classes: int,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        if not thresholds or not all(0 <= threshold <= 1 for threshold in thresholds):
            raise ValueError(
                f"metric.membrane_threshold.thresholds is {tuple(thresholds)}, but probabilities from 0 to 1 are "
                "needed; try 0.2,0.5"
            )
        self.thresholds = tuple(thresholds)
        self._membrane = Membrane(membrane, thinning, num_classes=num_classes, ignore_label=ignore_label)
        # Any other class stands for the inside of cells; with one class there is none, and no cell either.
        self._inside = (membrane + 1) % num_classes

    @property
    def protocol(self) -> str:
        """What is computed, in words."""
        return self._membrane.protocol.replace(
            "classes as predicted, without a search for the best threshold",
            "a pixel is membrane if its probability is above the threshold, of "
            f"{', '.join(f'{threshold:g}' for threshold in self.thresholds)}, that gives the best mean V_Rand on these "
            "images",
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: Float32[np.ndarray, "..."]) -> Float64[np.ndarray, "T 7"]:
        """The counts of `Membrane` at each threshold.

        Args:
            mask: Class of each pixel.
            predicted: Probability of each class, (K, *S).
        """
        probability = predicted[self._membrane.membrane]
        maps = (
            np.where(probability > threshold, self._membrane.membrane, self._inside) for threshold in self.thresholds
        )
        return np.stack([self._membrane.count(mask, classes.astype(np.uint8)) for classes in maps])

    def scores(self, counts: Float64[np.ndarray, "*N T 7"]) -> dict[str, Float64[np.ndarray, "*N"]]:
        """Means over the images at the best threshold, and the threshold; NaN if no image has a cell."""
        found = self._membrane.scores(counts)
        best = np.nan_to_num(found["v_rand"], nan=-1.0).argmax(-1)[..., None]
        scores = {name: np.take_along_axis(values, best, -1)[..., 0] for name, values in found.items()}
        chosen = np.asarray(self.thresholds)[best[..., 0]]
        return scores | {"threshold": np.where(np.isnan(scores["v_rand"]), np.nan, chosen)}


build = MembraneThreshold
