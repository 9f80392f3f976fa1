"""Test-time augmentation: several views of an image are predicted, and their probabilities averaged."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from segwright.inference.engine import Engine, Scores
from segwright.inference.logits import best_class, softmax

Flips = Literal["none", "horizontal", "both"]


class Views(NamedTuple):
    """Which views of an image are predicted: every scale in every pose.

    Attributes:
        scales: Sizes of the views, as multiples of the image's size.
        flips: "horizontal" adds the image with left and right exchanged; "both" that with top and bottom exchanged,
            and that with both.
        turns: Adds turns by 90, 180 and 270 degrees; together with any flips these are the eight poses of a square.
    """

    scales: Sequence[float] = (1.0,)
    flips: Flips = "none"
    turns: bool = False

    @property
    def poses(self) -> list[tuple[bool, int]]:
        """Whether left and right are exchanged, and how many quarter turns follow, for each pose once."""
        mirrored = (False,) if self.flips == "none" else (False, True)
        quarters = (0, 1, 2, 3) if self.turns else (0, 2) if self.flips == "both" else (0,)
        return [(is_mirrored, turned) for is_mirrored in mirrored for turned in quarters]

    def describe(self) -> str:
        """The views in words that follow "predicted with"."""
        is_single = tuple(self.scales) == (1.0,)
        scales = "single scale" if is_single else f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"
        flips = {"none": "no flips", "horizontal": "flips left to right", "both": "flips in both directions"}
        words = ", ".join([scales, flips[self.flips], *(["quarter turns"] if self.turns else [])])
        number = len(self.scales) * len(self.poses)
        return words if number == 1 else f"the mean probabilities of {number} views ({words})"


PRESETS: dict[str, Views] = {
    "none": Views(),
    "flip": Views(flips="horizontal"),
    "flips": Views(flips="both", turns=True),
    "scales": Views(scales=(0.75, 1.0, 1.25)),
    "full": Views(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flips="horizontal"),
}
"""Views by the names that the command line takes.

"flips" is for images without up and down, such as microscopy. "full" is the multi-scale test that papers report: twelve
predictions an image, the largest of three times the image's pixels.

Source of "full": Chen et al., Rethinking Atrous Convolution (DeepLabv3), 2017 (https://arxiv.org/abs/1706.05587).
"""


class Augmented:
    """An engine that looks at several views of each image: p = 1/V Σ_v v⁻¹(softmax(f(v(x)))).

    What comes out is log p, whose softmax and argmax are those of p, so that this stands wherever an engine does, in
    tiles too. Each view is brought back to the image's size and pose before it is added, and only one is in memory
    beside the sum. A single view gives the engine's own logits.

    Flips are wrong where classes tell left from right, such as the left and the right kidney.

    Args:
        engine: What predicts each view.
        scales: Sizes of the views, as multiples of the image's size, above 0. Sides of views of another size are
            rounded to multiples of the engine's stride, one stride at least; the image is resized bilinearly and keeps
            its type.
        flips: See `Views`.
        turns: See `Views`.

    Raises:
        ValueError: If there is no scale, or one is not above 0.
    """

    def __init__(
        self, engine: Engine, scales: Sequence[float] = (1.0,), flips: Flips = "none", turns: bool = False
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales are {tuple(scales)}, but one or more above 0 are needed; try (0.75, 1.0, 1.25)")
        self.description = engine.description
        self.runtime = engine.runtime
        self.stride = engine.stride
        self.batch_size = engine.batch_size
        # A view of another size looks further or less far, and is not exact anywhere.
        self.margin = engine.margin if tuple(scales) == (1.0,) else 0
        self._engine = engine
        self._views = [(scale, *pose) for scale in scales for pose in Views(scales, flips, turns).poses]

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Classes, and logarithms of the mean probabilities, of raw images."""
        first, *others = self._views
        if not others:
            logits = self._logits(images, *first)
            return Scores(_best_classes(logits), logits if with_logits else None)
        total = _softmax(self._logits(images, *first))
        for view in others:
            total += _softmax(self._logits(images, *view))
        mask = _best_classes(total)
        if not with_logits:
            return Scores(mask)
        # The smallest number above 0 keeps the logarithm finite where no view sees anything of a class.
        total /= len(self._views)
        return Scores(mask, np.log(np.maximum(total, np.finfo(np.float32).tiny, out=total), out=total))

    def _logits(
        self, images: Shaped[np.ndarray, "B H W C"], scale: float, is_mirrored: bool, quarters: int
    ) -> Float32[np.ndarray, "B K H W"]:
        """What the engine says about one view, at the size and in the pose of the images."""
        size = images.shape[1:3]
        view = _scale(images, scale, self.stride)  # B h w C
        view = view[:, :, ::-1] if is_mirrored else view
        view = np.rot90(view, quarters, (1, 2))  # B w h C after 90 or 270 degrees
        logits = self._engine(np.ascontiguousarray(view), with_logits=True).logits
        assert logits is not None
        logits = np.rot90(logits, -quarters, (2, 3))  # B K h w
        logits = logits[..., ::-1] if is_mirrored else logits
        return logits if logits.shape[2:] == size else _enlarge(logits, size)  # B K H W


def _scale(images: Shaped[np.ndarray, "B H W C"], scale: float, stride: int) -> Shaped[np.ndarray, "B h w C"]:
    height, width = images.shape[1:3]
    if scale == 1:
        return images
    size = [max(round(length * scale / stride), 1) * stride for length in (height, width)]
    resized = np.stack([_resize(image.astype(np.float32), size) for image in images])
    # An engine takes only the type of its training images.
    return resized.round().astype(images.dtype) if images.dtype.kind in "ui" else resized


def _enlarge(logits: Float32[np.ndarray, "B K h w"], size: Sequence[int]) -> Float32[np.ndarray, "B K H W"]:
    return np.stack([[_resize(np.ascontiguousarray(one), size) for one in classes] for classes in logits])


def _resize(pixels: Float32[np.ndarray, "h w *C"], size: Sequence[int]) -> Float32[np.ndarray, "H W *C"]:
    """Bilinear, pixels being areas, as `layers.resize`."""
    resized = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized.reshape(*size, *pixels.shape[2:]), np.float32)  # OpenCV drops an axis of one channel


def _softmax(logits: Float32[np.ndarray, "B K H W"]) -> Float32[np.ndarray, "B K H W"]:
    return np.stack([softmax(one) for one in logits])


def _best_classes(logits: Float32[np.ndarray, "B K H W"]) -> UInt8[np.ndarray, "B H W"]:
    return np.stack([best_class(one) for one in logits])


def add_views(engine: Engine, augment: str) -> Engine:
    """The engine with the views of a preset; "none" gives back the engine as it is.

    Raises:
        ValueError: If no preset has this name.
    """
    if augment not in PRESETS:
        raise ValueError(f"augment is {augment!r}, but known are {', '.join(PRESETS)}; try flip")
    return engine if augment == "none" else Augmented(engine, *PRESETS[augment])
