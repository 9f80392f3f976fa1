"""Read images that are too large for the memory region by region, each region as `read_image` would give it."""

from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import tifffile

from segwright.data.formats import FormatError, is_tiff
from segwright.data.images import UnreadableFileError, is_opaque
from segwright.data.raster_gdal import georeference_gdal, open_gdal
from segwright.data.raster_source import Stored, damage_named
from segwright.data.raster_tiff import MissingCodecError, open_tiff, tiff_size
from segwright.data.raster_zarr import open_zarr
from segwright.types import Image

GDAL_SUFFIXES = (".vrt", ".jp2", ".img")
"""Suffixes of files that only GDAL opens, in lower case."""

RASTER_SUFFIXES = (".tif", ".tiff", ".svs", ".zarr", *GDAL_SUFFIXES)
"""Suffixes of what `open_raster` opens, in lower case; `.zarr` is a folder."""

Tag = tuple[int, int, int, object, bool]
"""A tag as tifffile writes it: code, type, count, value, on the first page only."""

_GEOREFERENCE_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""GeoTIFF: pixel scale, tie points, transformation, keys and their values. Source: OGC 19-008r4, section 7."""


class Raster(Protocol):
    """An image of which regions are read.

    Attributes:
        shape: Height, width and channels, upright by the EXIF orientation.
        dtype: uint8, uint16 or float32.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def __getitem__(self, region: tuple[slice, ...], /) -> Image:
        """The pixels of a region of rows and columns, (h, w, C)."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def open_raster(path: Path, channels: int) -> Raster:
    """Open a TIFF, BigTIFF, Aperio slide, Zarr array, OME-Zarr image, or what GDAL opens; of a pyramid the full size.

    Regions have the numbers that `read_image` gives: uint8 and uint16 stay, others become float32, 1-bit images uint8
    0 and 255, palettes RGB. A region decodes only what it touches, and what was decoded last is kept in bounded memory,
    so that tiles row by row decode each part of the file once or twice. Threads may read one after the other.

    Args:
        path: A file, or a `.zarr` folder.
        channels: Channels that are wanted. A declared transparency channel beyond them is left out, and a region that
            is not opaque is an error. Any other number of channels stays as it is in the file.

    Raises:
        UnreadableFileError: If the file is damaged, cut short, no image, not one image, or needs a package that is not
            installed; so do regions whose part of the file is damaged.
    """
    with damage_named(path):
        return _Opened(path, _open(path), channels)


def raster_size(path: Path) -> tuple[int, int]:
    """Height and width of an image that `open_raster` opens, without decoding it.

    Raises:
        UnreadableFileError: As `open_raster`, but not for a TIFF whose layout alone is in the way.
    """
    with damage_named(path):
        if not path.is_dir() and path.suffix.lower() not in GDAL_SUFFIXES and is_tiff(_start(path)):
            return tiff_size(path)
        stored = _open(path)
        stored.array.close()
        height, width = (stored.array.shape[axis.index] for axis in stored.axes[:2])
        return height, width


def georeference(path: Path) -> list[Tag]:
    """The GeoTIFF tags of a file, or those that say the same as its georeference in another format; [] if none.

    The value that stands for missing pixels is left out, since a mask has none.

    Raises:
        UnreadableFileError: If the file is damaged, or needs a package that is not installed.
    """
    with damage_named(path):
        if path.suffix.lower() in GDAL_SUFFIXES:
            file = georeference_gdal(path)
        else:
            file = tifffile.TiffFile(path) if path.is_file() and is_tiff(_start(path)) else None
        if file is None:
            return []
        with file:
            tags = file.pages.first.tags
            return [
                (code, int(tags[code].dtype), int(tags[code].count), tags[code].value, True)
                for code in _GEOREFERENCE_TAGS
                if code in tags
            ]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise FormatError(f"the file cannot be opened ({error.strerror}); check its path and permissions") from error


def _open(path: Path) -> Stored:
    if path.is_dir():
        return open_zarr(path)
    start = _start(path)
    if not start:
        raise FormatError("the file is empty (0 bytes), but an image is needed; copy or export it again")
    if path.suffix.lower() in GDAL_SUFFIXES:
        return open_gdal(path)
    if not is_tiff(start):
        raise FormatError(
            f"only {', '.join(RASTER_SUFFIXES)} are read in parts, but the file is none of them; convert it to TIFF"
        )
    try:
        return open_tiff(path)
    except MissingCodecError as error:
        try:
            return open_gdal(path)
        except FormatError as other:
            raise FormatError(f"{error} (tried GDAL too: {other})") from other


class _Opened:
    def __init__(self, path: Path, stored: Stored, channels: int) -> None:
        self._path, self._stored, self._lock = path, stored, Lock()
        height, width, *rest = (stored.array.shape[axis.index] for axis in stored.axes)
        num_channels = rest[0] if rest else 1
        if stored.palette is not None:
            num_channels = stored.palette.shape[1]
        self._leaves_alpha = stored.has_alpha and num_channels == channels + 1
        self.shape = (height, width, num_channels - self._leaves_alpha)
        self.dtype = self._read_dtype()
        if 0 in self.shape:
            self._stored.array.close()
            raise UnreadableFileError(path, "the image has no pixels, but at least one is needed; export it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stored.array.close()

    def __getitem__(self, region: tuple[slice, ...], /) -> Image:
        for wanted, length in zip(region, self.shape, strict=False):
            if wanted.step is not None or not 0 <= wanted.start <= wanted.stop <= length:
                raise ValueError(
                    f"region {region} came, but slices with a start, a stop and no step inside {self.shape[:2]} are "
                    "needed; cut it to the image"
                )
        with damage_named(self._path), self._lock:
            pixels = self._read(*region)
            return np.ascontiguousarray(self._finish(pixels, region))

    def _read_dtype(self) -> np.dtype[Any]:
        dtype = self._stored.array.dtype
        if self._stored.palette is not None or dtype.kind == "b":
            return np.dtype(np.uint8)
        if dtype.kind not in "iuf":
            self._stored.array.close()
            raise UnreadableFileError(
                self._path, f"the pixels are {dtype}, but real numbers are needed; save as float32"
            )
        native = dtype.newbyteorder("=")
        return native if native in (np.uint8, np.uint16) else np.dtype(np.float32)

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        array, axes = self._stored.array, self._stored.axes
        region = [slice(0, length) for length in array.shape]
        for axis, wanted in zip(axes, (rows, columns), strict=False):
            length = array.shape[axis.index]
            region[axis.index] = slice(length - wanted.stop, length - wanted.start) if axis.is_reversed else wanted
        pixels = array.read(tuple(region))
        order = [axis.index for axis in axes]
        single = [index for index in range(pixels.ndim) if index not in order]
        pixels = pixels.transpose(*order, *single)
        pixels = pixels.reshape(pixels.shape[: len(order)])  # h w, or h w C
        return pixels[tuple(slice(None, None, -1 if axis.is_reversed else None) for axis in axes)]

    def _finish(self, pixels: np.ndarray, region: tuple[slice, ...]) -> Image:
        if self._stored.is_inverted and pixels.dtype.kind in "bu":
            pixels = ~pixels
        if self._stored.palette is not None:
            pixels = self._stored.palette[pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels]
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels  # h w C
        if self._leaves_alpha:
            if not is_opaque(pixels[..., -1]):
                rows, columns = region
                raise UnreadableFileError(
                    self._path,
                    f"the image is transparent within rows {rows.start} to {rows.stop} and columns {columns.start} to "
                    f"{columns.stop}, but plain pixels are needed; save it without transparency",
                )
            pixels = pixels[..., :-1]
        if pixels.dtype.kind == "b":
            return pixels.astype(np.uint8) * 255
        return pixels.astype(self.dtype, copy=False)
