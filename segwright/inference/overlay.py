"""Pictures for people: any image as RGB, a mask as colors, both on top of each other, and where they disagree."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from segwright.types import IGNORE_LABEL, Classes, Image

ERROR_COLOR = (255, 0, 92)
"""Color of wrong pixels in `error_map`."""

_DARK_STRIPE, _LIGHT_STRIPE = 118, 158  # gray of the hatching over void
_UNKNOWN_COLOR = (0, 0, 0)


def to_rgb(image: Image) -> UInt8[np.ndarray, "H W 3"]:
    """Turns any image into one that a screen shows.

    One channel becomes gray, two become red and cyan, and of more than three the first three are shown. uint8 is shown
    as it is; uint16 and float images are stretched from their 1st to their 99th percentile, over all channels together
    if there are three or four, so that colors stay true, and a channel at a time otherwise.

    Args:
        image: Pixels as (H, W, C) of any number type; values that are not finite become black.
    """
    if image.ndim != 3:
        raise ValueError(f"the image has {image.ndim} axes, but pixels come as (H, W, C); add the channel axis")
    channels = {1: (0, 0, 0), 2: (0, 1, 1)}.get(image.shape[2], (0, 1, 2))
    shown = image[..., channels]
    if image.dtype == np.uint8:
        return np.ascontiguousarray(shown)
    return _stretch(shown.astype(np.float32), together=image.shape[2] in (3, 4))


def _stretch(image: Float32[np.ndarray, "H W 3"], *, together: bool) -> UInt8[np.ndarray, "H W 3"]:
    finite = np.isfinite(image)
    # Every 7th value is enough for a percentile and keeps large scans quick.
    step = 7 if image.size > 3_000_000 else 1
    stretched = np.zeros(image.shape, np.uint8)
    for channels in [slice(0, 3)] if together else [slice(index, index + 1) for index in range(3)]:
        values = image[..., channels][finite[..., channels]][::step]
        if values.size == 0:
            continue
        low, high = np.percentile(values, (1, 99))
        if high <= low:
            low, high = values.min(), values.max()
        scaled = (image[..., channels] - low) * (255 / max(float(high - low), 1e-12))
        stretched[..., channels] = np.nan_to_num(np.rint(np.clip(scaled, 0, 255)), nan=0.0) * finite[..., channels]
    return stretched


def colorize(mask: UInt8[np.ndarray, "H W"], classes: Classes) -> UInt8[np.ndarray, "H W 3"]:
    """The mask in the colors of its classes; void is hatched gray, and a class that does not exist is black."""
    colors = np.tile(np.array(_UNKNOWN_COLOR, np.uint8), (256, 1))
    colors[: len(classes)] = classes.colors
    colored: UInt8[np.ndarray, "H W 3"] = colors[mask]
    _hatch(colored, mask == IGNORE_LABEL)
    return colored


def overlay(
    image: Image, mask: UInt8[np.ndarray, "H W"], classes: Classes, opacity: float = 0.5
) -> UInt8[np.ndarray, "H W 3"]:
    """The image tinted with the colors of the mask, each region with a thin outline in its full color.

    Args:
        image: Pixels as (H, W, C), shown as `to_rgb` does.
        mask: Class of each pixel; void is hatched gray.
        classes: Their colors.
        opacity: 0 shows the image with outlines only, 1 the mask only.

    Raises:
        ValueError: If the image and the mask differ in size, or `opacity` is not in [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, but it is between 0 (image) and 1 (mask)")
    _refuse_other_size(image, mask, "mask")
    colored = colorize(mask, classes)
    blended: UInt8[np.ndarray, "H W 3"] = cv2.addWeighted(to_rgb(image), 1 - opacity, colored, opacity, 0)
    edges = _edges(mask)
    blended[edges] = colored[edges]
    return blended


def error_map(
    image: Image, mask: UInt8[np.ndarray, "H W"], predicted: UInt8[np.ndarray, "..."]
) -> UInt8[np.ndarray, "H W 3"]:
    """The image in pale gray with wrong pixels in `ERROR_COLOR`; void, where nothing is wrong or right, is hatched.

    Args:
        image: Pixels as (H, W, C), shown as `to_rgb` does.
        mask: True class of each pixel, or void.
        predicted: Class that the network chose, at the size of the mask.

    Raises:
        ValueError: If the sizes differ.
    """
    _refuse_other_size(image, mask, "mask")
    _refuse_other_size(image, predicted, "prediction")
    gray = cv2.cvtColor(to_rgb(image), cv2.COLOR_RGB2GRAY)
    picture = np.repeat((gray * 0.55 + 95).astype(np.uint8)[..., None], 3, axis=2)
    void = mask == IGNORE_LABEL
    picture[(mask != predicted) & ~void] = ERROR_COLOR
    _hatch(picture, void)
    return picture


def _refuse_other_size(image: Image, mask: UInt8[np.ndarray, "..."], what: str) -> None:
    if image.shape[:2] != mask.shape:
        sizes = [" x ".join(map(str, shape)) for shape in (image.shape[:2], mask.shape)]
        raise ValueError(f"the image is {sizes[0]}, but the {what} is {sizes[1]}; resize one of them to the other")


def _edges(mask: UInt8[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose right or lower neighbor is of another class."""
    edges = np.zeros(mask.shape, bool)
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edges[:-1] |= mask[:-1] != mask[1:]
    return edges


def _hatch(picture: UInt8[np.ndarray, "H W 3"], void: Bool[np.ndarray, "H W"]) -> None:
    rows, columns = np.nonzero(void)
    stripe = (rows + columns) // 4 % 2
    picture[rows, columns] = np.where(stripe, _DARK_STRIPE, _LIGHT_STRIPE).astype(np.uint8)[:, None]
