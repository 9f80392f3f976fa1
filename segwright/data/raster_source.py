"""What the readers of large images share: an array on disk, of which only the parts that a region touches are read."""

import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from segwright.data.formats import FormatError
from segwright.data.images import DAMAGE, UnreadableFileError

CACHE_BYTES = 256 * 2**20
"""Decoded segments that are kept: a row of tiles over one-row strips of 80,000 RGB pixels fits."""
MAX_SEGMENT_BYTES = 2**30
"""Largest tile, strip or chunk that is decoded, since none is decoded in part."""

Region = tuple[slice, ...]
_THREADS = 2


class DiskArray(Protocol):
    """An array on disk as its file orders it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, region: Region, /) -> np.ndarray:
        """The numbers of a region, one slice an axis, each with a start and a stop inside the array."""

    def close(self) -> None:
        """Close the file."""


@dataclass(frozen=True)
class Axis:
    """An axis of an image in the array on disk.

    Attributes:
        index: Which axis of the array it is.
        is_reversed: The array holds it backwards.
    """

    index: int
    is_reversed: bool = False


@dataclass(frozen=True)
class Stored:
    """An image on disk before anything is made of it.

    Attributes:
        array: Its numbers.
        axes: Rows, columns and, where there are several, channels; all other axes of the array have one entry.
        palette: Color of each index, with three or four channels; None if the numbers are not indices.
        has_alpha: The last channel, that of the palette if there is one, is transparency.
        is_inverted: 0 is white.
    """

    array: DiskArray
    axes: tuple[Axis, ...]
    palette: UInt8[np.ndarray, "N C"] | None = None
    has_alpha: bool = False
    is_inverted: bool = False


class Segments:
    """An array whose tiles, strips or chunks are decoded one by one; those used last are kept for the next region.

    Args:
        shape: Of the array.
        segment_shape: Of a segment, one length an axis; the last of an axis may be shorter.
        dtype: Of its numbers.
        decode: Gives the segment at a place of the grid of segments; called from two threads.

    Raises:
        FormatError: If a segment is larger than `MAX_SEGMENT_BYTES`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        segment_shape: tuple[int, ...],
        dtype: np.dtype[Any],
        decode: Callable[[tuple[int, ...]], np.ndarray],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._lengths, self._decode = segment_shape, decode
        self._segment_bytes = prod(segment_shape) * dtype.itemsize
        if self._segment_bytes > MAX_SEGMENT_BYTES:
            raise FormatError(
                f"the image is stored in pieces of {self._segment_bytes:,} bytes, each decoded as a whole, but at most "
                f"{MAX_SEGMENT_BYTES:,} bytes are; save it in tiles of 512 x 512 pixels"
            )
        # A dictionary keeps the order in which segments were used.
        self._kept: dict[tuple[int, ...], np.ndarray] = {}
        self._pool = ThreadPoolExecutor(_THREADS)

    def read(self, region: Region) -> np.ndarray:
        """As `DiskArray.read`."""
        out = np.empty([wanted.stop - wanted.start for wanted in region], self.dtype)
        spans = [
            range(wanted.start // length, -(-wanted.stop // length))
            for wanted, length in zip(region, self._lengths, strict=True)
        ]
        missing = []
        # Kept segments come first, so that a region larger than the cache does not push them out unused.
        for place in product(*spans):
            if place in self._kept:
                self._kept[place] = segment = self._kept.pop(place)
                self._copy(segment, place, region, out)
            else:
                missing.append(place)
        # Few at once, so that decoded segments that wait to be copied stay few.
        step = min(max(CACHE_BYTES // 4 // self._segment_bytes, 1), 64)
        for first in range(0, len(missing), step):
            places = missing[first : first + step]
            for place, segment in zip(places, self._pool.map(self._decode, places), strict=True):
                self._copy(segment, place, region, out)
                self._keep(place, segment)
        return out

    def close(self) -> None:
        """End the threads and forget the segments."""
        self._pool.shutdown()
        self._kept.clear()

    def _keep(self, place: tuple[int, ...], segment: np.ndarray) -> None:
        while self._kept and (len(self._kept) + 1) * self._segment_bytes > CACHE_BYTES:
            del self._kept[next(iter(self._kept))]
        self._kept[place] = segment

    def _copy(self, segment: np.ndarray, place: tuple[int, ...], region: Region, out: np.ndarray) -> None:
        target, source = [], []
        for index, length, wanted in zip(place, self._lengths, region, strict=True):
            start, stop = max(wanted.start, index * length), min(wanted.stop, (index + 1) * length)
            target.append(slice(start - wanted.start, stop - wanted.start))
            source.append(slice(start - index * length, stop - index * length))
        out[tuple(target)] = segment[tuple(source)]


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turns whatever decoders raise into `UnreadableFileError`."""
    try:
        yield
    except UnreadableFileError:
        raise
    except FormatError as error:
        raise UnreadableFileError(path, str(error)) from error
    except DAMAGE as error:
        raise UnreadableFileError(
            path, "the image is damaged or cut short, but a complete file is needed; copy or export it again"
        ) from error


def import_large(name: str, purpose: str) -> Any:  # noqa: ANN401
    """A package of the extra `large`.

    Raises:
        FormatError: If it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FormatError(
            f"{purpose} needs the package {name}, which cannot be imported ({error}); run "
            'pip install "segwright[large]"'
        ) from error
