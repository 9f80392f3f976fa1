"""Test-time augmentation: several views of an image are predicted, and their probabilities averaged."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from segwright.inference.tiles import Predictor
from segwright.layers.resize import resize, resize_logits

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
    """A predictor that looks at several views of each image: p = 1/V Σ_v v⁻¹(softmax(f(v(x)))).

    What comes out is log p, whose softmax and argmax are those of p, so that this stands wherever a segmenter does,
    in tiles too. Each view is brought back to the image's size and pose before it is added, and only one is in memory
    beside the sum. A single view gives the predictor's own logits.

    Flips are wrong where classes tell left from right, such as the left and the right kidney.

    Args:
        predictor: What predicts each view, such as a segmenter in evaluation mode.
        scales: Sizes of the views, as multiples of the image's size, above 0. Sides are rounded to multiples of the
            predictor's stride, one stride at least; the image is resized bilinearly and keeps its type.
        flips: See `Views`.
        turns: See `Views`.

    Raises:
        ValueError: If there is no scale, or one is not above 0.
    """

    def __init__(
        self, predictor: Predictor, scales: Sequence[float] = (1.0,), flips: Flips = "none", turns: bool = False
    ) -> None:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales are {tuple(scales)}, but one or more above 0 are needed; try (0.75, 1.0, 1.25)")
        self.description = predictor.description
        self._predictor = predictor
        self._views = [(scale, *pose) for scale in scales for pose in Views(scales, flips, turns).poses]

    @property
    def stride(self) -> int:
        """Sides of an image are multiples of this."""
        return self._predictor.stride

    @property
    def device(self) -> torch.device:
        """Where the predictor computes."""
        return self._predictor.device

    def __call__(self, image: Shaped[Tensor, "B C H W"], /) -> Float32[Tensor, "B K H W"]:
        """Logarithms of the mean probabilities of raw images whose sides are multiples of `stride`."""
        first, *others = self._views
        if not others:
            return self._logits(image, *first)
        total = self._logits(image, *first).softmax(1)
        for view in others:
            total += self._logits(image, *view).softmax(1)
        # The smallest number above 0 keeps the logarithm finite where no view sees anything of a class.
        return total.div_(len(self._views)).clamp_min_(torch.finfo(total.dtype).tiny).log_()

    def _logits(
        self, image: Shaped[Tensor, "B C H W"], scale: float, is_mirrored: bool, quarters: int
    ) -> Float32[Tensor, "B K H W"]:
        """What the predictor says about one view, at the size and in the pose of the image."""
        view = _scale(image, scale, self.stride)  # B C h w
        view = view.flip(-1) if is_mirrored else view
        # Without a turn rot90 would copy the image, and into another layout.
        view = view.rot90(quarters, (-2, -1)) if quarters else view  # B C w h after 90 or 270 degrees
        logits = self._predictor(view)
        logits = logits.rot90(-quarters, (-2, -1)) if quarters else logits  # B K h w
        logits = logits.flip(-1) if is_mirrored else logits
        size = image.shape[-2:]
        return logits.float() if logits.shape[-2:] == size else resize_logits(logits, size)  # B K H W


def _scale(image: Shaped[Tensor, "B C H W"], scale: float, stride: int) -> Shaped[Tensor, "B C h w"]:
    size = [max(round(length * scale / stride), 1) * stride for length in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    resized: Float[Tensor, "B C h w"] = resize(image.float(), size)
    # A segmenter may have been exported for the type of its training images.
    return resized if image.is_floating_point() else resized.round().to(image.dtype)


def add_views(predictor: Predictor, augment: str) -> Predictor:
    """The predictor with the views of a preset; "none" gives back the predictor as it is.

    Raises:
        ValueError: If no preset has this name.
    """
    if augment not in PRESETS:
        raise ValueError(f"augment is {augment!r}, but known are {', '.join(PRESETS)}; try flip")
    return predictor if augment == "none" else Augmented(predictor, *PRESETS[augment])
