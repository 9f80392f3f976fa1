"""Scores of a segmenter on a data set, with the protocol that they follow."""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from segwright import parts
from segwright.data.folder import Dataset, Pair
from segwright.files import write_whole
from segwright.inference.augment import PRESETS, add_views
from segwright.inference.crf import DenseCRF
from segwright.inference.engine import Engine
from segwright.inference.predictor import Predictor, predict_image
from segwright.metrics.confusion import dice, intersection_over_union, mean_dice, mean_iou, pixel_accuracy
from segwright.types import Classes
from segwright.uncertainty import Score, bootstrap_interval

SETTING = PRESETS["none"].describe()
"""How images are predicted if nothing else is asked for."""


class Metric(Protocol):
    """What a file of `segwright.metrics` builds: counts of single images that add up, and the scores of their sums.

    Attributes:
        takes_probabilities: Whether `count` takes the probability of each class instead of the class.
        lower_is_better: Names of the scores that are distances or errors.
        distances: Names of the scores that are lengths; the others are shares in [0, 1].
    """

    takes_probabilities: ClassVar[bool]
    lower_is_better: ClassVar[frozenset[str]]
    distances: ClassVar[frozenset[str]]

    @property
    def protocol(self) -> str:
        """What is computed, in a sentence or two."""

    def count(self, mask: Any, predicted: Any, /) -> Shaped[np.ndarray, "*C"]:  # noqa: ANN401 - classes or probabilities
        """Counts of one image."""

    def scores(self, counts: Shaped[np.ndarray, "..."], /) -> dict[str, Float64[np.ndarray, "..."]]:
        """Scores by name from summed counts: one number a set, or one a class."""


@dataclass(frozen=True)
class Counted:
    """What a metric counted.

    Attributes:
        name: Of the metric.
        arguments: That it was made with.
        counts: Of each image.
    """

    name: str
    arguments: dict[str, Any]
    counts: Shaped[np.ndarray, "N *C"]

    def metric(self, num_classes: int) -> Metric:
        """The metric that counted."""
        return make_metric(self.name, self.arguments, num_classes)


def make_metric(name: str, arguments: Mapping[str, Any], num_classes: int) -> Metric:
    """A metric by its name."""
    metric: Metric = parts.build("metric", name, dict(arguments), num_classes=num_classes)
    return metric


def _score_of(metric: Metric, name: str, counts: Shaped[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    return metric.scores(counts)[name]


@dataclass(frozen=True)
class Evaluation:
    """Counts of one evaluation and the scores that follow from them.

    Attributes:
        split: Part of the data set.
        names: Image names, in the order of all counts.
        counted: What each metric counted; the confusion matrices first.
        classes: Names and colors of the classes.
        seconds_per_image: Median time of one prediction.
        setting: How the images were predicted.
    """

    split: str
    names: tuple[str, ...]
    counted: tuple[Counted, ...]
    classes: Classes
    seconds_per_image: float
    setting: str = SETTING

    @property
    def confusions(self) -> Int64[np.ndarray, "N K K"]:
        """Pixels by true class (rows) and predicted class (columns), for each image."""
        return self.counted[0].counts

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

    @property
    def protocol(self) -> str:
        """How every number came about."""
        metrics = [counted.metric(len(self.classes)).protocol for counted in self.counted]
        return " ".join(
            [
                *metrics,
                "Masks at the images' original size.",
                f"Predicted with {self.setting}.",
                "Intervals are 95 % bootstrap intervals over images.",
            ]
        )

    def measured(self, metric: str) -> dict[str, Score]:
        """All scores of one metric with their intervals, by name.

        Raises:
            ValueError: If the metric was not counted.
        """
        found = next((counted for counted in self.counted if counted.name == metric), None)
        if found is None:
            raise ValueError(
                f"'{metric}' was not counted, only {', '.join(counted.name for counted in self.counted)}; evaluate "
                f"again with --metrics {metric}"
            )
        part = found.metric(len(self.classes))
        measured = {}
        for name, value in part.scores(found.counts.sum(axis=0)).items():
            low, high = bootstrap_interval(found.counts, partial(_score_of, part, name))
            measured[name] = Score(value, low, high, name in part.lower_is_better, name in part.distances)
        return measured

    def scores(self, *, intervals: bool = True) -> dict[str, Any]:
        """Scores as plain values: overall with their intervals, by class, and of the further metrics."""
        overall = {"miou": mean_iou, "mean_dice": mean_dice, "pixel_accuracy": pixel_accuracy}
        result: dict[str, Any] = {"split": self.split, "images": len(self.names), "protocol": self.protocol}
        for name, statistic in overall.items():
            result[name] = float(statistic(self.confusion))
            if intervals:
                result[f"{name}_interval"] = _plain(bootstrap_interval(self.confusions, statistic))
        result["classes"] = {
            name: {"iou": _plain(iou), "dice": _plain(overlap)}
            for name, iou, overlap in zip(self.classes.names, self.iou, self.dice, strict=True)
        }
        if intervals and len(self.counted) > 1:
            result["metrics"] = {counted.name: self._further(counted.name) for counted in self.counted[1:]}
        result["seconds_per_image"] = self.seconds_per_image
        return result

    def _further(self, metric: str) -> dict[str, Any]:
        return {
            name: {"value": _plain(score.value), "interval": _plain((score.low, score.high))}
            if score.value.ndim == 0
            else dict(zip(self.classes.names, _plain(score.value), strict=True))
            for name, score in self.measured(metric).items()
        }

    def save(self, path: Path) -> None:
        """Write the counts of every image as an .npz file, from which all scores can be computed again."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {f"counts_{counted.name}": counted.counts for counted in self.counted}
        np.savez_compressed(
            buffer,
            split=self.split,
            names=np.array(self.names),
            metrics=json.dumps({counted.name: counted.arguments for counted in self.counted}),
            class_names=np.array(self.classes.names),
            colors=np.array(self.classes.colors),
            seconds_per_image=self.seconds_per_image,
            setting=self.setting,
            **arrays,
        )
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is damaged, or was written by another version.
        """
        try:
            return cls._load(path)
        except (KeyError, BadZipFile) as error:
            raise ValueError(f"{path} is damaged or of another version ({error}); evaluate again") from None

    @classmethod
    def _load(cls, path: Path) -> "Evaluation":
        with np.load(path, allow_pickle=False) as stored:
            colors = tuple((int(r), int(g), int(b)) for r, g, b in stored["colors"])
            classes = Classes(tuple(str(name) for name in stored["class_names"]), colors)
            names = tuple(str(name) for name in stored["names"])
            counted = tuple(
                # JSON has lists where arguments have tuples.
                Counted(name, parts.check_arguments("metric", name, arguments), stored[f"counts_{name}"])
                for name, arguments in json.loads(str(stored["metrics"])).items()
            )
            seconds = float(stored["seconds_per_image"])
            return cls(str(stored["split"]), names, counted, classes, seconds, str(stored["setting"]))


def join(shares: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of a whole split from those of processes that each took every n-th image."""
    places = [range(rank, len(shares) * len(share.names), len(shares)) for rank, share in enumerate(shares)]
    order = np.argsort([place for share in places for place in share])
    filled = [share for share in shares if share.names]  # with fewer images than processes some have none
    first = filled[0]
    names = np.concatenate([share.names for share in filled])[order]
    counted = tuple(
        Counted(one.name, one.arguments, np.concatenate([share.counted[index].counts for share in filled])[order])
        for index, one in enumerate(first.counted)
    )
    seconds = float(np.median([share.seconds_per_image for share in filled]))
    return Evaluation(first.split, tuple(str(name) for name in names), counted, first.classes, seconds, first.setting)


def _plain(value: Any) -> Any:  # noqa: ANN401 - numbers and arrays of any shape
    if isinstance(value, tuple | list) or np.ndim(value):
        return [_plain(item) for item in value]
    return None if np.isnan(value) else float(value)


def evaluate(
    segmenter: Predictor,
    dataset: Dataset,
    split: str = "val",
    *,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    augment: str = "none",
    crf: DenseCRF | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a segmenter on the images of a split that have masks.

    Args:
        segmenter: From `segwright.load`.
        dataset: A data set that was read with the segmenter's classes and mask encoding.
        split: "train", "val" or "test".
        metrics: Arguments of further metrics by name; the confusion matrix is always counted.
        augment: Views to average, a name of `inference.augment.PRESETS`.
        crf: Refines the probabilities by the colors of the images.
        share: Rank and number of the processes that share the images; `join` makes one evaluation of theirs.
        progress: Called with the number of images that are done and their total.

    Raises:
        ValueError: If the split has no images with masks, the classes are not the segmenter's, or `augment` is not
            known.
    """
    engine = add_views(segmenter.engine, augment)
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
    rank, size = share
    arguments: dict[str, dict[str, Any]] = {"confusion": {}}
    for name, given in (metrics or {}).items():
        arguments[name] = parts.check_arguments("metric", name, dict(given))
    built = {name: make_metric(name, given, len(segmenter.classes)) for name, given in arguments.items()}
    counts, seconds = _count(engine, dataset, pairs[rank::size], built, crf, progress)
    return Evaluation(
        split,
        tuple(pair.name for pair in pairs[rank::size]),
        tuple(Counted(name, given, counts[name]) for name, given in arguments.items()),
        segmenter.classes,
        seconds,
        _describe_setting(engine, augment, crf),
    )


def _describe_setting(engine: Engine, augment: str, crf: DenseCRF | None) -> str:
    words = (PRESETS[augment].describe(), crf.describe() if crf else "", engine.description.cleanup.describe())
    return "; ".join(word for word in words if word)


def _count(
    engine: Engine,
    dataset: Dataset,
    pairs: Sequence[Pair],
    metrics: Mapping[str, Metric],
    crf: DenseCRF | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Shaped[np.ndarray, "N ..."]], float]:
    """Counts of each metric on each image, and the median seconds of a prediction."""
    counts: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    wants_probabilities = any(metric.takes_probabilities for metric in metrics.values())
    seconds = []
    for done, pair in enumerate(pairs, start=1):
        sample = dataset.read(pair)
        assert sample.mask is not None
        started = time.perf_counter()
        prediction = predict_image(engine, sample.image, probabilities=wants_probabilities, crf=crf)
        seconds.append(time.perf_counter() - started)
        for name, metric in metrics.items():
            predicted = prediction.probabilities if metric.takes_probabilities else prediction.mask
            counts[name].append(metric.count(sample.mask, predicted))
        if progress:
            progress(done, len(pairs))
    stacked = {name: np.stack(found) if found else np.zeros(0) for name, found in counts.items()}
    return stacked, float(np.median(seconds)) if seconds else np.nan
