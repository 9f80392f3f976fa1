"""Examples as pictures inside the page."""

import base64
import math

import cv2
import numpy as np
from jaxtyping import UInt8

from segwright.inference.overlay import error_map, overlay, to_rgb
from segwright.report.content import Example
from segwright.types import Classes, Image

_LONGEST_SIDE = 480  # pixels; twice the width of a column, for dense screens
_SHORTEST_SIDE = 160
_FULL_SIZE_EXAMPLES = 7  # more examples than this are embedded smaller, which keeps the page below 5 MB
_OPACITY = 0.45


def longest_side(num_examples: int) -> int:
    """Longest side of an embedded picture in pixels, so that all examples of a page stay below about 5 MB."""
    return max(_SHORTEST_SIDE, int(_LONGEST_SIDE * min(1.0, math.sqrt(_FULL_SIZE_EXAMPLES / max(1, num_examples)))))


def example_pictures(example: Example, classes: Classes, side: int) -> dict[str, str]:
    """Image, mask, prediction and errors of an example as data URIs, each at most `side` pixels long."""
    # Outlines are drawn after the image is made small, or they would vanish; errors before, so that small ones stay.
    image = _shrink(to_rgb(example.image), side)
    mask, predicted = (_shrink_mask(labels, image) for labels in (example.mask, example.predicted))
    errors = _shrink(error_map(example.image, example.mask, example.predicted), side)
    return {
        "Image": data_uri(image),
        "Mask": data_uri(overlay(image, mask, classes, _OPACITY)),
        "Prediction": data_uri(overlay(image, predicted, classes, _OPACITY)),
        "Errors": data_uri(errors),
    }


def data_uri(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """An RGB picture as a JPEG data URI; colors are not subsampled, which would smear thin outlines."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, 84, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), settings)[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def _shrink(picture: Image, side: int) -> Image:
    factor = side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    height, width = (max(1, round(length * factor)) for length in picture.shape[:2])
    shrunk: Image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return shrunk


def _shrink_mask(mask: UInt8[np.ndarray, "H W"], image: Image) -> UInt8[np.ndarray, "h w"]:
    shrunk: UInt8[np.ndarray, "h w"] = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return shrunk
