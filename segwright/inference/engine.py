"""What computes a segmenter: raw pixels in, classes and logits out, as arrays, whatever library is behind it."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from segwright.inference.description import Description


class Scores(NamedTuple):
    """What an engine says about a batch.

    Attributes:
        mask: Class with the highest logit of each pixel.
        logits: Logits of each class, if they were asked for.
    """

    mask: UInt8[np.ndarray, "B *S"]
    logits: Float32[np.ndarray, "B K *S"] | None = None


class Engine(Protocol):
    """A segmenter that is ready to run."""

    @property
    def description(self) -> Description:
        """All of the segmenter but its weights."""

    @property
    def runtime(self) -> str:
        """Library and number format, such as "OpenVINO, bf16"."""

    @property
    def stride(self) -> int:
        """Tiles that start at multiples of this lie on the pooling grid of the network."""

    @property
    def margin(self) -> int:
        """Pixels from a border beyond which logits do not depend on what lies outside, where that is known exactly.

        0 for all other networks, whose tiles are blended instead of cut.
        """

    @property
    def batch_size(self) -> int:
        """Tiles that it takes at a time."""

    def __call__(self, images: Shaped[np.ndarray, "B *S C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size, any size, in the type of the training images."""


def input_dtype(dtype: str) -> str:
    """Type of the numbers that an engine takes for images of a type: not all libraries know uint16."""
    return "float32" if dtype == "uint16" else dtype
