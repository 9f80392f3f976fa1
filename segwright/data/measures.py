"""What is remembered of each image and mask after it has been read once, a few kilobytes a file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from segwright.data.colors import Color
from segwright.data.encoding import pack_colors
from segwright.data.images import read_mask_file
from segwright.types import Image

MAX_VALUES = 4096
"""Most distinct values remembered of one mask, the most frequent ones; no set of classes is near it."""


@dataclass(frozen=True)
class ImageFacts:
    """One image.

    Attributes:
        height: Pixels.
        width: Pixels.
        channels: Number of them.
        dtype: uint8, uint16 or float32.
        digest: Hash of the decoded pixels.
        means: Mean of each channel.
        variances: Variance of each channel.
    """

    height: int
    width: int
    channels: int
    dtype: str
    digest: str
    means: tuple[float, ...]
    variances: tuple[float, ...]


@dataclass(frozen=True)
class MaskFacts:
    """One mask, as stored.

    Attributes:
        height: Pixels.
        width: Pixels.
        digest: Hash of the decoded values.
        is_color: Three channels that differ; codes are then packed colors.
        in_rgb: The file has three channels, even if they are equal.
        is_lossy: The format changes values when it saves.
        palette: Color of each index, None if the file has none or it is the gray ramp.
        codes: Distinct values, (V,).
        counts: Pixels of each value in the top, middle and bottom rows by left, middle and right columns, (V, 3, 3);
            the middle is one line at odd sizes and none at even ones.
        sides: Pixel sides at which each value meets another, (V,).
        is_solid: Whether a value fills a 3 x 3 square anywhere, (V,); values that come from smoothing do not.
        num_values: Number of distinct values, also where codes holds fewer.
    """

    height: int
    width: int
    digest: str
    is_color: bool
    in_rgb: bool
    is_lossy: bool
    palette: tuple[Color, ...] | None
    codes: np.ndarray
    counts: np.ndarray
    sides: np.ndarray
    is_solid: np.ndarray
    num_values: int

    @property
    def totals(self) -> np.ndarray:
        """Pixels of each value, (V,)."""
        totals: np.ndarray = self.counts.sum(axis=(1, 2))
        return totals


def measure_image(image: Image) -> ImageFacts:
    """Size, type, hash, and mean and variance of each channel."""
    height, width, channels = image.shape
    means, variances = [], []
    for channel in cv2.split(image):
        mean, deviation = cv2.meanStdDev(channel)
        means.append(float(mean[0, 0]))
        variances.append(float(deviation[0, 0]) ** 2)
    return ImageFacts(height, width, channels, str(image.dtype), digest_of(image), tuple(means), tuple(variances))


def measure_mask(path: Path) -> MaskFacts:
    """Read one mask and count its values.

    Raises:
        UnreadableFileError: If the file cannot be read as a mask.
    """
    mask = read_mask_file(path)
    stored, palette = mask.values, mask.palette
    codes, index = _index_values(stored)
    rows, columns = _thirds(index.shape[0]), _thirds(index.shape[1])
    keys = (rows[:, None] * 3 + columns) * len(codes) + index  # H W
    counts = np.bincount(keys.ravel(), minlength=9 * len(codes)).reshape(3, 3, -1).transpose(2, 0, 1)  # V 3 3
    sides, is_solid = _count_sides(index, len(codes)), _solid_values(index, len(codes))
    kept = np.arange(len(codes))
    if len(codes) > MAX_VALUES:
        kept = np.sort(np.argsort(-counts.sum(axis=(1, 2)), kind="stable")[:MAX_VALUES])
    return MaskFacts(
        height=stored.shape[0],
        width=stored.shape[1],
        digest=digest_of(stored),
        is_color=stored.ndim == 3,
        in_rgb=mask.in_rgb,
        is_lossy=mask.is_lossy,
        palette=None if palette is None or all(color == (i, i, i) for i, color in enumerate(palette)) else palette,
        codes=codes[kept].astype(np.int64),
        counts=counts[kept],
        sides=sides[kept],
        is_solid=is_solid[kept],
        num_values=len(codes),
    )


def digest_of(pixels: np.ndarray) -> str:
    """Hash of type, shape and pixels, the same for the same picture in any file format."""
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _index_values(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # A table over all possible values beats sorting; only the pages of values that occur are ever touched.
    if stored.ndim == 3:
        packed = pack_colors(stored)
        codes = np.unique(packed)
        table = np.empty(2**24, np.int32)
    else:
        packed = stored
        codes = np.flatnonzero(np.bincount(stored.ravel()))
        table = np.empty(2**16, np.int32)
    table[codes] = np.arange(len(codes), dtype=np.int32)
    return codes, table[packed]


def _thirds(length: int) -> np.ndarray:
    parts = np.ones(length, np.int64)
    parts[: length // 2] = 0
    parts[length - length // 2 :] = 2
    return parts


def _count_sides(index: np.ndarray, num_values: int) -> np.ndarray:
    sides = np.zeros(num_values, np.int64)
    for one, other in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1])):
        is_border = one != other
        for part in (one[is_border], other[is_border]):
            sides += np.bincount(part, minlength=num_values)
    return sides


def _solid_values(index: np.ndarray, num_values: int) -> np.ndarray:
    is_solid = np.zeros(num_values, bool)
    if min(index.shape) < 3 or num_values > 65535:
        return is_solid
    narrow = index.astype(np.uint16)
    square = np.ones((3, 3), np.uint8)
    is_inside = cv2.erode(narrow, square) == cv2.dilate(narrow, square)
    is_solid[index[1:-1, 1:-1][is_inside[1:-1, 1:-1]]] = True
    return is_solid
