"""Scores of a segmenter on a data set, with the protocol that they follow."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from segwright.data.folder import Dataset, Pair
from segwright.files import write_whole
from segwright.inference.segmenter import Segmenter
from segwright.inference.tiles import predict_image
from segwright.metrics.confusion import (
    confusion_matrix,
    dice,
    intersection_over_union,
    mean_dice,
    mean_iou,
    pixel_accuracy,
)
from segwright.types import Classes
from segwright.uncertainty import bootstrap_interval

PROTOCOL = (
    "One confusion matrix over all pixels of all images at their original size; void pixels are left out; IoU and "
    "Dice of each class, means over the classes that occur in masks or predictions; single scale, no flips; intervals "
    "are 95 % bootstrap intervals over images."
)


@dataclass(frozen=True)
class Evaluation:
    """Counts of one evaluation and the scores that follow from them.

    Attributes:
        split: Part of the data set.
        names: Image names, in the order of `confusions`.
        confusions: Pixels by true class (rows) and predicted class (columns), for each image.
        classes: Names and colors of the classes.
        seconds_per_image: Median time of one prediction.
    """

    split: str
    names: tuple[str, ...]
    confusions: Int64[np.ndarray, "N K K"]
    classes: Classes
    seconds_per_image: float

    @property
    def confusion(self) -> Int64[np.ndarray, "K K"]:
        """Counts over all images."""
        total: Int64[np.ndarray, "K K"] = self.confusions.sum(axis=0)
        return total

    @property
    def iou(self) -> Float64[np.ndarray, "K"]:
        """Intersection over union of each class; NaN for a class that does not occur."""
        return intersection_over_union(self.confusion)

    @property
    def dice(self) -> Float64[np.ndarray, "K"]:
        """Dice coefficient of each class; NaN for a class that does not occur."""
        return dice(self.confusion)

    @property
    def miou(self) -> float:
        """Mean IoU over classes."""
        return float(mean_iou(self.confusion))

    def scores(self, *, intervals: bool = True) -> dict[str, Any]:
        """Scores as plain values: overall with their intervals, and by class."""
        overall = {"miou": mean_iou, "mean_dice": mean_dice, "pixel_accuracy": pixel_accuracy}
        result: dict[str, Any] = {"split": self.split, "images": len(self.names), "protocol": PROTOCOL}
        for name, statistic in overall.items():
            result[name] = float(statistic(self.confusion))
            if intervals:
                result[f"{name}_interval"] = [
                    _plain(float(end)) for end in bootstrap_interval(self.confusions, statistic)
                ]
        result["classes"] = {
            name: {"iou": _plain(iou), "dice": _plain(overlap)}
            for name, iou, overlap in zip(self.classes.names, self.iou, self.dice, strict=True)
        }
        result["seconds_per_image"] = self.seconds_per_image
        return result

    def save(self, path: Path) -> None:
        """Write the counts of every image as an .npz file, from which all scores can be computed again."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            split=self.split,
            names=np.array(self.names),
            confusions=self.confusions,
            class_names=np.array(self.classes.names),
            colors=np.array(self.classes.colors),
            seconds_per_image=self.seconds_per_image,
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            colors = tuple((int(r), int(g), int(b)) for r, g, b in stored["colors"])
            classes = Classes(tuple(str(name) for name in stored["class_names"]), colors)
            names = tuple(str(name) for name in stored["names"])
            return cls(str(stored["split"]), names, stored["confusions"], classes, float(stored["seconds_per_image"]))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    split: str = "val",
    *,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a segmenter on the images of a split that have masks.

    Args:
        segmenter: A segmenter in evaluation mode.
        dataset: A data set that was read with the segmenter's classes and mask encoding.
        split: "train", "val" or "test".
        precision: As for `predict_image`.
        progress: Called with the number of images that are done and their total.

    Raises:
        ValueError: If the split has no images with masks, or the classes are not the segmenter's.
    """
    found = dataset.classes.names if dataset.classes else ()
    if found != segmenter.classes.names:
        raise ValueError(
            f"{dataset.root} has the classes {', '.join(found) or 'none'}, but the segmenter knows "
            f"{', '.join(segmenter.classes.names)}; evaluate on data with the same classes"
        )
    pairs = [pair for pair in dataset.splits.get(split, ()) if pair.mask is not None]
    if not pairs:
        filled = [name for name, found in dataset.splits.items() if found]
        raise ValueError(
            f"{dataset.root} has no images with masks in the split '{split}'; "
            f"splits with images are: {', '.join(filled) or 'none'}"
        )
    return _measure(segmenter, dataset, split, pairs, precision, progress)


def _measure(
    segmenter: Segmenter,
    dataset: Dataset,
    split: str,
    pairs: Sequence[Pair],
    precision: str,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    confusions, seconds = [], []
    for done, pair in enumerate(pairs, start=1):
        sample = dataset.read(pair)
        assert sample.mask is not None
        started = time.perf_counter()
        predicted = predict_image(segmenter, sample.image, precision=precision).mask
        seconds.append(time.perf_counter() - started)
        confusions.append(confusion_matrix(sample.mask, predicted, len(segmenter.classes)))
        if progress:
            progress(done, len(pairs))
    names = tuple(pair.name for pair in pairs)
    return Evaluation(split, names, np.stack(confusions), segmenter.classes, float(np.median(seconds)))
