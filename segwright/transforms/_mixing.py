"""Pastes a part of one random view into another, mask and all; nothing is resampled and no value is new."""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from segwright.types import IGNORE_LABEL, Sample

Mix = Literal["none", "cutmix", "classmix", "copy_paste"]
"""What is pasted: "none", "cutmix" for a box of half the area, "classmix" for half of the classes, "copy_paste" for
half of the objects, which are connected regions of one class other than 0."""

BOX_SHARE = 0.5
"""Share of the view that the box of "cutmix" covers."""


class Mixing:
    """Pastes a random part of a partner's view into a share of the views, pixels and mask alike.

    Void pixels of the partner are pasted only inside boxes, where they stay void. A partner without what `mix` takes
    (objects; two classes) leaves the view as it was. Objects of one class that touch are one object.

    Args:
        mix: What is pasted.
        share: Share of the views that something is pasted into, 0 to 1.

    Raises:
        ValueError: If `mix` is not known or `share` is out of its range.

    Source: box, French et al., BMVC 2020 (https://arxiv.org/abs/1906.01916), half of the area with a random shape and
    place as in their code; classes, Olsson et al., WACV 2021 (https://arxiv.org/abs/2007.07936), here with the true
    masks; objects, Ghiasi et al., CVPR 2021 (https://arxiv.org/abs/2012.07177), here with regions of the mask as
    objects and, as there, without blending.
    """

    def __init__(self, mix: Mix = "none", share: float = 0.5) -> None:
        if mix != "none" and mix not in _CHOOSE:
            raise ValueError(f"transform.mix is '{mix}', but known are: none, {', '.join(_CHOOSE)}")
        if not 0 <= share <= 1:
            raise ValueError(f"transform.mix_share is {share}, but a share from 0 to 1 is needed; try 0.5")
        self.mix: Mix = mix
        self.share = share

    def __call__(self, view: Sample, partner: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """The view, or a mixture of it and its partner; the same `rng` state gives the same one.

        Args:
            view: What is pasted into; it is not changed.
            partner: Makes another view of the same size and type; asked only if something is going to be pasted.
            rng: Source of all that is random.
        """
        if self.mix == "none" or rng.random() >= self.share:
            return view
        other = partner()
        assert view.mask is not None
        assert other.mask is not None
        chosen = _CHOOSE[self.mix](other.mask, rng)
        image = np.where(chosen[..., None], other.image, view.image)
        return Sample(view.name, image, np.where(chosen, other.mask, view.mask))


def list_classes(mask: UInt8[np.ndarray, "H W"]) -> Int64[np.ndarray, " N"]:
    """The classes that a mask shows, in increasing order, without void."""
    present = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))
    classes: Int64[np.ndarray, " N"] = present[present != IGNORE_LABEL]
    return classes


def _choose_box(mask: UInt8[np.ndarray, "H W"], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """A box of half the area, its height between half and all of the view's, somewhere inside."""
    height, width = mask.shape
    height_share = BOX_SHARE ** rng.random()
    box = round(height * height_share), round(width * BOX_SHARE / height_share)
    top, left = (int(rng.integers(room + 1)) for room in (height - box[0], width - box[1]))
    chosen = np.zeros(mask.shape, bool)
    chosen[top : top + box[0], left : left + box[1]] = True
    return chosen


def _choose_classes(mask: UInt8[np.ndarray, "H W"], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """All pixels of half of the classes, rounded down; the classes drawn at random."""
    classes = rng.permutation(list_classes(mask))
    is_chosen = np.zeros(256, bool)
    is_chosen[classes[: len(classes) // 2]] = True
    chosen: Bool[np.ndarray, "H W"] = is_chosen[mask]
    return chosen


def _choose_objects(mask: UInt8[np.ndarray, "H W"], rng: np.random.Generator) -> Bool[np.ndarray, "H W"]:
    """Whole objects, each with a chance of one half."""
    chosen = np.zeros(mask.shape, bool)
    for label in list_classes(mask):
        if label == 0:
            continue
        num_regions, regions = cv2.connectedComponents((mask == label).astype(np.uint8))
        is_chosen = rng.random((num_regions,)) < 0.5
        is_chosen[0] = False  # region 0 is all the rest
        chosen |= is_chosen[regions]
    return chosen


_CHOOSE = {"cutmix": _choose_box, "classmix": _choose_classes, "copy_paste": _choose_objects}
