"""Clean-up of a predicted mask: holes, small components, and all but the largest component of each class."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from jaxtyping import Bool, Int32, UInt8
from scipy import ndimage

from segwright.layers.components import connected_components
from segwright.types import IGNORE_LABEL


@dataclass(frozen=True)
class CleanUp:
    """What is tidied up in a predicted mask; nothing, unless it is asked for.

    A component is a set of pixels of one class that touch, be it at a corner (8 neighbors in 2-D, 26 in 3-D), so that a
    thin slanted structure is one. Pixels that are removed take the class of the nearest pixel that stays, by Euclidean
    distance in pixels; of several that are equally near, scipy's choice. A speck in the background becomes
    background, one inside of an organ becomes organ, and no class needs to be a background. Should a pixel be cut off
    from its new class, as can happen in large removed regions, it takes the class of the nearest one that is not.

    First holes are filled, so that they count for the size of what is around them, then small components are removed,
    then all but the largest. This is repeated for as long as anything changes: a ring that was broken by a speck closes
    when the speck is gone, and its hole is filled too. It ends, since each change leaves fewer components of other
    classes than 0, or as many and fewer pixels of class 0. A mask that is clean stays as it is.

    Attributes:
        min_pixels: Components of fewer pixels (voxels in 3-D) are removed, all at once, those of class 0 too. If all
            are smaller, there is nothing whose class they could take, and they stay.
        fill_holes: A region of class 0 becomes the class that it borders on and that closes it in: no path of pixels
            side by side leads from it to the border of the mask and avoids this class. Where two classes do so, by
            rings that cross, it becomes the lower one. Other classes in a hole stay: a tumor is no hole in an organ.
            Not for data whose class 0 is no background.
        largest_only: Of each class but 0 all components but the largest are removed; of several that are equally
            large the one with the first pixel in reading order stays. For data with one object a class, such as
            organs.

    Raises:
        ValueError: If `min_pixels` is below 0.
    """

    min_pixels: int = 0
    fill_holes: bool = False
    largest_only: bool = False

    def __post_init__(self) -> None:
        if self.min_pixels < 0:
            raise ValueError(f"min_pixels is {self.min_pixels}, but 0 or more are needed; 0 keeps all components")

    def describe(self) -> str:
        """The settings in words that follow "predicted with"; nothing if nothing is tidied up."""
        words = [
            f"components below {self.min_pixels} pixels removed" if self.min_pixels > 1 else "",
            "holes filled" if self.fill_holes else "",
            "the largest component of each class kept" if self.largest_only else "",
        ]
        return ", ".join(word for word in words if word)

    def apply(self, mask: UInt8[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
        """The clean mask: a new array, or the one that came if nothing changes.

        Args:
            mask: Predicted class of each pixel or voxel.

        Raises:
            ValueError: If the mask has fewer than two axes or no pixels, or void pixels.
        """
        _refuse_what_is_no_prediction(mask)
        steps = self._steps()
        settled = 0
        for step in cycle(steps):
            cleaned = step(mask)
            # A step finds nothing in what it has cleaned itself, so after a change only the others are due again.
            settled = settled + 1 if cleaned is mask else 1
            mask = cleaned
            if settled == len(steps):
                break
        return mask

    def _steps(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """What is asked for; each step gives back the same array if it finds nothing."""
        steps: list[Callable[[np.ndarray], np.ndarray]] = []
        if self.fill_holes:
            steps.append(_fill_holes)
        if self.min_pixels > 1:
            steps.append(partial(_remove_small, min_pixels=self.min_pixels))
        if self.largest_only:
            steps.append(_keep_largest)
        return steps


def _refuse_what_is_no_prediction(mask: UInt8[np.ndarray, "*S"]) -> None:
    if mask.ndim < 2 or mask.size == 0:
        raise ValueError(
            f"mask has the shape {mask.shape}, but two or more axes without 0 are needed; give one mask, not its rows"
        )
    if mask.max() == IGNORE_LABEL:
        raise ValueError(
            f"mask holds {IGNORE_LABEL}, the label of void pixels, but a prediction has a class everywhere; clean up "
            "predictions, not annotated masks"
        )


def _fill_holes(mask: UInt8[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    # What is closed in by pixels that touch at corners only is cut off for those that lie side by side.
    gaps = connected_components(mask == 0, "faces")
    gaps[~_is_inside(gaps)[gaps]] = 0  # classes that border on these only need no search
    becomes = np.zeros(int(gaps.max()) + 1, np.uint8)  # class of each gap, 0 for those that are no holes
    for index, box in _boxes(mask):
        if index == 0:
            continue
        region = mask[box] == index
        beside = _has_neighbor_in(region) & (gaps[box] > 0)
        if beside.any():
            others = connected_components(~region, "faces")
            holes = gaps[box][beside][_is_inside(others)[others[beside]]]
            becomes[holes[becomes[holes] == 0]] = index
    if not becomes.any():
        return mask
    filling = becomes[gaps]
    return np.where(filling > 0, filling, mask)


def _remove_small(mask: UInt8[np.ndarray, "*S"], min_pixels: int) -> UInt8[np.ndarray, "*S"]:
    removed = np.zeros(mask.shape, bool)
    for index, box in _boxes(mask):
        region = mask[box] == index
        parts = connected_components(region)[region]  # N, pixels of this class
        removed[box][region] = (np.bincount(parts) < min_pixels)[parts]
    return mask if removed.all() else _replace(mask, removed)


def _keep_largest(mask: UInt8[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    removed = np.zeros(mask.shape, bool)
    for index, box in _boxes(mask):
        if index == 0:
            continue
        region = mask[box] == index
        parts = connected_components(region)[region]  # N, pixels of this class
        sizes = np.bincount(parts)
        # Which number a component gets is not defined, so that of equals the first pixel decides.
        largest = parts[(sizes == sizes.max())[parts].argmax()]
        removed[box][region] = parts != largest
    return _replace(mask, removed)


def _replace(mask: UInt8[np.ndarray, "*S"], removed: Bool[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    """The mask after each removed pixel took the class of the nearest one that stays, of which there is at least one.

    Each component of the result holds a component of the pixels that stay, so that nothing new has to be removed.
    """
    if not removed.any():
        return mask
    assert not removed.all()
    # All that is nearer than the nearest pixel is removed, hence that one lies beside a removed pixel.
    box = tuple(
        slice(max(side.start - 1, 0), side.stop + 1) for side in ndimage.find_objects(removed.view(np.uint8))[0]
    )
    cleaned = mask.copy()
    part, missing = cleaned[box], removed[box]
    # A missing pixel beside one that stays is never cut off, so that fewer are missing each time.
    while missing.any():
        nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
        part[missing] = part[tuple(nearest[:, missing])]
        missing = _cut_off(part, missing)
    return cleaned


def _cut_off(mask: UInt8[np.ndarray, "*S"], added: Bool[np.ndarray, "*S"]) -> Bool[np.ndarray, "*S"]:
    """The components without a pixel that was there before.

    Among the pixels that are nearest to one and the same pixel, some can lie apart from the others: the region of a
    point in the plane holds together, but where it is thin it can slip between the centers of pixels.
    """
    is_cut_off = np.zeros(mask.shape, bool)
    for index, box in _boxes(mask):
        region = mask[box] == index
        is_new = added[box][region]
        if is_new.any():
            parts = connected_components(region)[region]  # N, pixels of this class
            is_rooted = np.zeros(int(parts.max()) + 1, bool)
            is_rooted[parts[~is_new]] = True
            is_cut_off[box][region] = ~is_rooted[parts]
    return is_cut_off


def _boxes(mask: UInt8[np.ndarray, "*S"]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Each class that occurs, with its bounding box."""
    for index, box in enumerate(ndimage.find_objects(mask + np.uint8(1))):  # boxes are found of values from 1
        if box is not None:
            yield index, box


def _is_inside(components: Int32[np.ndarray, "*S"]) -> Bool[np.ndarray, "N"]:
    """Whether each component, by its number, keeps off the border of the array; not so 0, which is none."""
    is_inside = np.ones(int(components.max()) + 1, bool)
    is_inside[0] = False
    for axis in range(components.ndim):
        for end in (0, -1):
            is_inside[components.take(end, axis)] = False
    return is_inside


def _has_neighbor_in(region: Bool[np.ndarray, "*S"]) -> Bool[np.ndarray, "*S"]:
    """Pixels that lie side by side with one of the region."""
    found = np.zeros(region.shape, bool)
    for axis in range(region.ndim):
        source, sink = np.moveaxis(region, axis, 0), np.moveaxis(found, axis, 0)
        sink[1:] |= source[:-1]
        sink[:-1] |= source[1:]
    return found
