"""A segmenter that is ready to use: an engine, and the one way from an image to its mask."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from segwright.data.images import read_image
from segwright.inference.augment import add_views
from segwright.inference.crf import DenseCRF
from segwright.inference.engine import Engine, Scores
from segwright.inference.logits import softmax
from segwright.inference.tiles import Source, predict_bands
from segwright.types import Classes, Image


@dataclass(frozen=True)
class Prediction:
    """What a segmenter says about one image.

    Attributes:
        mask: Class of each pixel, cleaned up as the segmenter's description says.
        probabilities: Probability of each class before any clean-up, if they were asked for.
    """

    mask: UInt8[np.ndarray, "H W"]
    probabilities: Float32[np.ndarray, "K H W"] | None = None


@dataclass(frozen=True)
class Predictor:
    """A segmenter on an engine; what `segwright.load` gives.

    Attributes:
        engine: What computes it.
        key: Of the segmenter, the same for the same weights and settings; "" if it never was in a folder.
    """

    engine: Engine
    key: str = ""

    @property
    def classes(self) -> Classes:
        """Names and colors of the classes."""
        return self.engine.description.classes

    @property
    def runtime(self) -> str:
        """Library and number format that compute, such as "OpenVINO, bf16"."""
        return self.engine.runtime

    def predict(
        self,
        image: Image | Path | str,
        *,
        probabilities: bool = False,
        augment: str = "none",
        crf: DenseCRF | None = None,
    ) -> Prediction:
        """Segment one image of any size.

        Args:
            image: A file, or raw pixels as (H, W, C) or (H, W) in the type of the training images.
            probabilities: Return the probability of each class too.
            augment: Views to average, a name of `inference.augment.PRESETS`.
            crf: Refines the probabilities by the colors of the image.

        Raises:
            ValueError: If the file cannot be read, the image does not fit the segmenter, or `augment` is not known.
        """
        pixels = read_image(Path(image)) if isinstance(image, str | Path) else image
        return predict_image(add_views(self.engine, augment), pixels, probabilities=probabilities, crf=crf)


def predict_image(
    engine: Engine, image: Image, *, probabilities: bool = False, crf: DenseCRF | None = None
) -> Prediction:
    """Segment an image of any size.

    Images up to `tiling.whole_pixels` go through the network at once. Larger ones are cut into overlapping tiles whose
    logits are blended with Gaussian weights; networks that are exact beyond a known margin are cut there instead.

    Args:
        engine: What computes it.
        image: Raw pixels as (H, W, C) or, for one channel, (H, W), in the type of the training images.
        probabilities: Return the probabilities too.
        crf: Refines the probabilities by the colors of the image.

    Raises:
        ValueError: If channels or type differ from the training images.
    """
    image = image[..., None] if image.ndim == 2 else image
    check_image(engine, image)
    scores = _scores(engine, image, with_logits=probabilities or crf is not None)
    if scores.logits is None:
        return Prediction(engine.description.cleanup.apply(scores.mask[0]))
    found = softmax(scores.logits[0])
    mask = scores.mask[0]
    if crf is not None:
        found = crf.refine(image, found)
        mask = found.argmax(axis=0).astype(np.uint8)
    return Prediction(engine.description.cleanup.apply(mask), found if probabilities else None)


def check_image(engine: Engine, image: Source) -> None:
    """Refuse an image that is not like the training images.

    Raises:
        ValueError: If shape, channels or type differ.
    """
    wanted, shape = engine.description, image.shape
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"image has the shape {shape}, but (height, width, channels) without 0 is needed")
    if shape[2] != wanted.in_channels:
        raise ValueError(
            f"image has {shape[2]} channels, but this segmenter was trained on {wanted.in_channels}; convert the "
            "image, or train on images like it"
        )
    if str(image.dtype) != wanted.dtype:
        raise ValueError(
            f"image holds {image.dtype} values, but this segmenter was trained on {wanted.dtype}; convert the image to "
            f"{wanted.dtype} with the range of the training images"
        )


def _scores(engine: Engine, image: Image, *, with_logits: bool) -> Scores:
    """Classes and logits of a batch of one image."""
    size = image.shape[:-1]
    if math.prod(size) <= engine.description.tiling.whole_pixels:
        return engine(image[None], with_logits=with_logits)
    mask = np.empty((1, *size), np.uint8)
    logits = np.empty((1, len(engine.description.classes), *size), np.float32) if with_logits else None
    for band in predict_bands(engine, image, with_logits=with_logits):
        rows = slice(band.start, band.start + len(band.mask))
        mask[0, rows] = band.mask
        if logits is not None and band.logits is not None:
            logits[0, :, rows] = band.logits
    return Scores(mask, logits)
