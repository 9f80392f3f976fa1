"""What a report says, before it has a form."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from segwright.metrics import confusion as metrics
from segwright.types import Classes, Image
from segwright.uncertainty import Score, bootstrap_interval


@dataclass(frozen=True)
class Scores:
    """How well the masks of a set were predicted.

    Attributes:
        protocol: One sentence: which images, at which size, with which averaging, what was left out.
        classes: Names and colors.
        num_images: Number of images measured.
        level: Share of the resamples inside the intervals.
        confusion: Pixels of each true class (row) that were given each class (column), of the whole set.
        intersection_over_union: One a class, like the three that follow.
        mean_iou: One number, like the two that follow.
    """

    protocol: str
    classes: Classes
    num_images: int
    level: float
    confusion: Int64[np.ndarray, "K K"]
    intersection_over_union: Score
    dice: Score
    precision: Score
    recall: Score
    mean_iou: Score
    mean_dice: Score
    pixel_accuracy: Score

    @classmethod
    def of(
        cls,
        confusions: Int64[np.ndarray, "N K K"],
        classes: Classes,
        protocol: str,
        *,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "Scores":
        """All scores with their bootstrap intervals, from one confusion matrix an image.

        Raises:
            ValueError: If there is no image, or the matrices are not of these classes.
        """
        if confusions.shape[-1] != len(classes):
            raise ValueError(
                f"the confusion matrices have {confusions.shape[-1]} classes, but {len(classes)} are named"
            )
        total = confusions.sum(axis=0)

        def measured(statistic: Callable[..., Float64[np.ndarray, "..."]]) -> Score:
            low, high = bootstrap_interval(confusions, statistic, level=level, resamples=resamples, seed=seed)
            return Score(statistic(total), low, high)

        return cls(
            protocol=protocol,
            classes=classes,
            num_images=len(confusions),
            level=level,
            confusion=total,
            intersection_over_union=measured(metrics.intersection_over_union),
            dice=measured(metrics.dice),
            precision=measured(metrics.precision),
            recall=measured(metrics.recall),
            mean_iou=measured(metrics.mean_iou),
            mean_dice=measured(metrics.mean_dice),
            pixel_accuracy=measured(metrics.pixel_accuracy),
        )


@dataclass(frozen=True)
class ImageScore:
    """Scores of one image, in [0, 1] or NaN."""

    name: str
    mean_iou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Example:
    """One image to look at.

    Attributes:
        name: Stem of the image file.
        image: Pixels as (H, W, C), any type that `segwright.inference.overlay.to_rgb` shows.
        mask: True class of each pixel, or void.
        predicted: Class that the network chose.
        score: mIoU of this image, or NaN.
    """

    name: str
    image: Image
    mask: UInt8[np.ndarray, "H W"]
    predicted: UInt8[np.ndarray, "H W"]
    score: float


@dataclass(frozen=True)
class Timing:
    """How fast it was; NaN for what was not measured.

    Attributes:
        train_minutes: Wall time of the training.
        images_per_s: Images a second during training.
        waiting_share: Share of the training time that was spent waiting for data, in [0, 1].
        prediction_ms: Milliseconds to predict one image, reading excluded.
    """

    train_minutes: float = math.nan
    images_per_s: float = math.nan
    waiting_share: float = math.nan
    prediction_ms: float = math.nan


@dataclass(frozen=True)
class Report:
    """All that the page of a run shows.

    Attributes:
        title: Name of the run.
        scores: How good it is.
        images: Scores of single images, in any order.
        worst: Examples with the lowest scores, lowest first.
        best: Examples with the highest scores, highest first.
        history: Rows of the training log: `step`, `elapsed_s`, `loss`, `learning_rate`.
        validation: Rows of the validation log: `step`, `elapsed_s`, `miou`.
        timing: How fast it is.
        recipe: The resolved recipe as YAML.
        data: What the inspection of the data found; the entry `problems` is a list of sentences.
        environment: Versions, hardware, command, seed.
        segmenter: Path of the segmenter's folder, as a user would type it.
    """

    title: str
    scores: Scores
    images: Sequence[ImageScore] = ()
    worst: Sequence[Example] = ()
    best: Sequence[Example] = ()
    history: Sequence[Mapping[str, float]] = ()
    validation: Sequence[Mapping[str, float]] = ()
    timing: Timing = field(default_factory=Timing)
    recipe: str = ""
    data: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    segmenter: str = "segmenter"
