"""Whether another engine gives the same masks, on real images."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from segwright.inference.engine import Engine
from segwright.inference.predictor import predict_image
from segwright.metrics.confusion import confusion_matrix, mean_iou
from segwright.types import Sample

MAX_DELTA_MIOU = 0.5
"""Largest change of the mIoU that passes, in percent points."""


def least_equal(precision: str) -> float:
    """Smallest share of equal pixels that passes for a number format."""
    return 0.999 if precision == "fp32" else 0.995


@dataclass(frozen=True)
class Measured:
    """What an engine did on some images.

    Attributes:
        runtime: Library and number format.
        masks: Of each image.
        milliseconds: Median time of an image, after a first one that does not count.
        miou: Mean IoU over classes on all images, in percent; None without masks to compare with.
    """

    runtime: str
    masks: tuple[UInt8[np.ndarray, "_ _"], ...]
    milliseconds: float
    miou: float | None


@dataclass(frozen=True)
class Proof:
    """How the masks of an engine compare with those of the segmenter in PyTorch and float32.

    Attributes:
        reference: What they are compared with.
        runtime: What was proved.
        images: Number of images.
        equal: Share of pixels, over all images, whose class is the same.
        equal_worst: Of the image where it is least.
        reference_miou: Mean IoU of the reference in percent, None without masks.
        miou: Mean IoU of the engine in percent, None without masks.
        reference_ms: Median milliseconds of an image.
        milliseconds: Median milliseconds of an image.
        least_equal: Smallest share of equal pixels that passes.
    """

    reference: str
    runtime: str
    images: int
    equal: float
    equal_worst: float
    reference_miou: float | None
    miou: float | None
    reference_ms: float
    milliseconds: float
    least_equal: float

    @property
    def delta_miou(self) -> float | None:
        """Change of the mIoU in percent points, None without masks."""
        return None if self.miou is None or self.reference_miou is None else self.miou - self.reference_miou

    @property
    def holds(self) -> bool:
        """Whether the masks are the same within the tolerance."""
        return bool(self.equal >= self.least_equal and abs(self.delta_miou or 0) <= MAX_DELTA_MIOU)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"delta_miou": self.delta_miou, "holds": self.holds}


def measure(engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] | None = None) -> Measured:
    """Segment images and time it.

    Args:
        engine: What computes.
        samples: Images, with masks or without.
        progress: Called after each image.
    """
    num_classes = len(engine.description.classes)
    confusion: np.ndarray | None = None
    masks, seconds = [], []
    predict_image(engine, samples[0].image)
    for sample in samples:
        started = time.perf_counter()
        masks.append(predict_image(engine, sample.image).mask)
        seconds.append(time.perf_counter() - started)
        if sample.mask is not None:
            counted = confusion_matrix(sample.mask, masks[-1], num_classes)
            confusion = counted if confusion is None else confusion + counted
        if progress:
            progress()
    miou = None if confusion is None else 100 * float(mean_iou(confusion))
    return Measured(engine.runtime, tuple(masks), 1000 * statistics.median(seconds), miou)


def compare(reference: Measured, found: Measured, precision: str) -> Proof:
    """Hold the masks of an engine against those of the reference.

    Args:
        reference: The segmenter in PyTorch and float32.
        found: What is to be proved, on the same images.
        precision: Number format that was asked for, which decides the tolerance.
    """
    equal = [int(np.count_nonzero(one == other)) for one, other in zip(reference.masks, found.masks, strict=True)]
    sizes = [mask.size for mask in reference.masks]
    return Proof(
        reference=reference.runtime,
        runtime=found.runtime,
        images=len(sizes),
        equal=float(sum(equal) / sum(sizes)),
        equal_worst=min(same / size for same, size in zip(equal, sizes, strict=True)),
        reference_miou=reference.miou,
        miou=found.miou,
        reference_ms=reference.milliseconds,
        milliseconds=found.milliseconds,
        least_equal=least_equal(precision),
    )
