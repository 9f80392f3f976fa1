"""Panoptic quality: how many segments are found, and how well those that are found fit."""

from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Integer, UInt8
from scipy import ndimage

from segwright.layers.components import Connectivity, connected_components
from segwright.metrics.confusion import confusion_matrix, mean_of_present, ratio
from segwright.types import IGNORE_LABEL


class Panoptic:
    """Panoptic quality of each class and its two factors, segmentation quality and recognition quality.

    PQ = Σ IoU / (TP + FP / 2 + FN / 2) = SQ · RQ, with SQ = Σ IoU / TP and RQ = TP / (TP + FP / 2 + FN / 2).

    A semantic mask has no instances, so those of a class of things are its connected components; things that touch
    are one. All other classes are stuff: one segment an image. A segment of the prediction and one of the mask match
    if they are of one class and their IoU is above 1/2, which at most one can be; TP are the matches, FP and FN the
    segments without a match. A predicted segment that is more than half void is no FP, and void pixels are in no union.

    SQ of a class with segments but without a match is 0, as in the authors' code, so that all three means are over
    the same classes. The mean PQ is not the product of the mean SQ and the mean RQ.

    Args:
        things: Classes whose components are segments of their own; all but class 0 if left out, none if empty.
        connectivity: Which pixels of a class are connected.
        num_classes: Number of classes K.
        ignore_label: Void pixels of the mask.

    Raises:
        ValueError: If `things` names a class that does not exist.

    Source: Kirillov et al., Panoptic Segmentation, CVPR 2019, sections 4.1 and 4.2 (https://arxiv.org/abs/1801.00868).
    """

    takes_probabilities: ClassVar[bool] = False
    lower_is_better: ClassVar[frozenset[str]] = frozenset()
    distances: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        things: tuple[int, ...] | None = None,
        connectivity: Connectivity = "full",
        *,
        num_classes: int,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        self.things = tuple(range(1, num_classes)) if things is None else things
        self.connectivity = connectivity
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        unknown = [index for index in self.things if not 0 <= index < num_classes]
        if unknown:
            raise ValueError(
                f"metric.panoptic.things names class {unknown[0]}, but there are {num_classes} classes, 0 to "
                f"{num_classes - 1}; name only those whose instances count"
            )

    @property
    def protocol(self) -> str:
        """What is computed, in words."""
        segments = "every class is one segment an image"
        if self.things:
            neighbors = "touch" if self.connectivity == "full" else "lie side by side"
            segments = (
                f"the connected components of classes {', '.join(map(str, self.things))} are segments (pixels that "
                f"{neighbors} are connected), every other class is one segment an image"
            )
        return (
            f"Panoptic quality of semantic masks: {segments}; segments of one class match at an IoU above 0.5; void "
            "pixels are in no union, predicted segments that are more than half void are no false positives; IoU and "
            "matches are summed over all images; classes without any segment are left out of the means."
        )

    def count(self, mask: UInt8[np.ndarray, "*S"], predicted: UInt8[np.ndarray, "..."]) -> Float64[np.ndarray, "K 4"]:
        """`count_segments` of the segments of a semantic mask and its prediction."""
        confusion_matrix(mask, predicted, self.num_classes, self.ignore_label)  # refuses what does not fit
        segments, classes = self._segments(mask, mask != self.ignore_label)
        # Predictions in void count for the size of a segment, so their segments are made of all pixels.
        found, found_classes = self._segments(predicted, np.ones_like(predicted, bool))
        return count_segments(
            segments, found, classes=classes, predicted_classes=found_classes, num_classes=self.num_classes
        )

    def scores(self, counts: Float64[np.ndarray, "*N K 4"]) -> dict[str, Float64[np.ndarray, "..."]]:
        """PQ, SQ and RQ of each class, NaN for one without segments, and their means over the others."""
        overlap, hits, extra, missed = np.moveaxis(counts, -1, 0)  # *N K
        segments = hits + (extra + missed) / 2
        fit = np.where(hits > 0, ratio(overlap, hits), 0.0)
        per_class = {
            "pq": ratio(overlap, segments),
            "sq": np.where(segments > 0, fit, np.nan),
            "rq": ratio(hits, segments),
        }
        return {f"mean_{name}": mean_of_present(values) for name, values in per_class.items()} | per_class

    def _segments(
        self, mask: UInt8[np.ndarray, "*S"], valid: Bool[np.ndarray, "*S"]
    ) -> tuple[Int32[np.ndarray, "*S"], Int64[np.ndarray, "M"]]:
        """The segment of each pixel, 1 to M or 0 where it is not valid, and the class of each segment."""
        shifted = np.where(valid, mask + np.uint8(1), np.uint8(0))  # boxes are found of values from 1
        segments = np.zeros(mask.shape, np.int32)
        classes: list[int] = []
        for index, box in enumerate(ndimage.find_objects(shifted)):
            if box is None:
                continue
            region = shifted[box] == index + 1
            is_thing = index in self.things
            parts = connected_components(region, self.connectivity) if is_thing else region.astype(np.int32)
            np.add(parts, len(classes), out=segments[box], where=region)
            classes += [index] * int(parts.max())
        return segments, np.array(classes, np.int64)


def count_segments(
    segments: Integer[np.ndarray, "*S"],
    predicted: Integer[np.ndarray, "..."],
    *,
    classes: Integer[np.ndarray, "M"],
    predicted_classes: Integer[np.ndarray, "P"],
    num_classes: int,
) -> Float64[np.ndarray, "K 4"]:
    """Counts of panoptic quality from given segments, such as annotated instances.

    Args:
        segments: Segment of each pixel of the mask, 1 to M, 0 for void. Crowds, where instances cannot be told apart,
            are void.
        predicted: Segment of each pixel of the prediction, 1 to P, 0 for none.
        classes: Class of segment 1, 2, ..., M. Segments without a pixel do not count.
        predicted_classes: Class of segment 1, 2, ..., P.
        num_classes: Number of classes K.

    Returns:
        For each class the sum of the IoU of the matches, and the numbers of true positives, false positives and false
        negatives.

    Raises:
        ValueError: If the shapes differ, or a segment has no class, or a class does not exist.
    """
    if segments.shape != predicted.shape:
        raise ValueError(
            f"the mask is {segments.shape}, but the prediction is {predicted.shape}; predict at the mask's size"
        )
    _refuse_unknown(segments, classes, num_classes, "the mask")
    _refuse_unknown(predicted, predicted_classes, num_classes, "the prediction")
    ours, theirs, pixels = count_overlaps(segments, predicted)
    sizes = np.bincount(ours, pixels, len(classes) + 1)
    found_sizes = np.bincount(theirs, pixels, len(predicted_classes) + 1)
    found_void = np.bincount(theirs, pixels * (ours == 0), len(predicted_classes) + 1)

    is_pair = (ours > 0) & (theirs > 0)
    ours, theirs, pixels = ours[is_pair], theirs[is_pair], pixels[is_pair]
    union = sizes[ours] + (found_sizes - found_void)[theirs] - pixels
    is_match = (classes[ours - 1] == predicted_classes[theirs - 1]) & (2 * pixels > union)
    matched = classes[ours[is_match] - 1]
    is_extra = (found_sizes > 0) & (2 * found_void <= found_sizes)
    is_extra[theirs[is_match]] = False

    hits = np.bincount(matched, minlength=num_classes)
    overlap = np.bincount(matched, (pixels / union)[is_match], num_classes)
    extra = np.bincount(predicted_classes[is_extra[1:]], minlength=num_classes)
    missed = np.bincount(classes[sizes[1:] > 0], minlength=num_classes) - hits
    return np.stack([overlap, hits, extra, missed], axis=-1).astype(np.float64)  # K 4


def count_overlaps(
    first: Integer[np.ndarray, "*S"], second: Integer[np.ndarray, "*S"]
) -> tuple[Int64[np.ndarray, "Q"], Int64[np.ndarray, "Q"], Int64[np.ndarray, "Q"]]:
    """The pairs of ids, from 0, that occur at one pixel: the first of each, the second, and their number of pixels.

    A full matrix could not be kept: noise has as many segments as pixels.
    """
    step = int(second.max(initial=0)) + 1
    packed = first.ravel().astype(np.int64) * step + second.ravel()
    # Neighbors mostly agree, so that counting runs first leaves little to sort.
    starts = np.flatnonzero(np.diff(packed, prepend=-1))
    pairs, which = np.unique(packed[starts], return_inverse=True)
    pixels = np.bincount(which, np.diff(starts, append=packed.size)).astype(np.int64)
    return pairs // step, pairs % step, pixels


def _refuse_unknown(
    segments: Integer[np.ndarray, "*S"], classes: Integer[np.ndarray, "M"], num_classes: int, what: str
) -> None:
    low, high = int(segments.min(initial=0)), int(segments.max(initial=0))
    if low < 0 or high > len(classes):
        raise ValueError(
            f"{what} holds segments {low} to {high}, but {len(classes)} segments have a class; number segments from 1, "
            "with 0 for void"
        )
    if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
        wrong = classes[(classes < 0) | (classes >= num_classes)][0]
        raise ValueError(
            f"{what} has a segment of class {wrong}, but there are {num_classes} classes, 0 to {num_classes - 1}"
        )


build = Panoptic
