"""Regions of TIFF and BigTIFF files of any size: only the tiles or strips that a region touches are decoded."""

import logging
from itertools import product
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tifffile
from numpy.lib.stride_tricks import as_strided

from segwright.data.formats import (
    ORIENTATION_TAG,
    FormatError,
    check_complete,
    put_channels_last,
    tiff_palette,
    turn_upright,
)
from segwright.data.raster_source import Axis, Region, Segments, Stored


class MissingCodecError(FormatError):
    """A TIFF file whose compression tifffile and imagecodecs cannot decode."""


def open_tiff(path: Path) -> Stored:
    """Open the one full-size image of a TIFF file; levels of a pyramid and the pictures beside a slide are left out.

    Raises:
        FormatError: If the file holds several images or a volume, is cut short, or its layout is not known.
        MissingCodecError: If its compression is not known.
    """
    # tifffile logs what it raises anyway, and logging prints to stderr.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    file = tifffile.TiffFile(path)
    try:
        return _describe(file)
    except BaseException:
        file.close()
        raise


def tiff_size(path: Path) -> tuple[int, int]:
    """Height and width of the image that `open_tiff` opens, upright, also where it cannot be read in parts.

    Raises:
        FormatError: If the file holds several images or a volume.
    """
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with tifffile.TiffFile(path) as file:
        shape, axes = _axes(_full_size(file))
        return shape[axes[0].index], shape[axes[1].index]


def _describe(file: tifffile.TiffFile) -> Stored:
    series = _full_size(file)
    page = series.keyframe
    check_complete(series, file.filehandle.size)
    shape, axes = _axes(series)
    is_color = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    return Stored(
        _array(file, series, shape),
        axes,
        palette=tiff_palette(page)[:, :3] if is_palette else None,
        # 1 and 2 are the two kinds of transparency.
        has_alpha=is_color and bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2),
        is_inverted=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
    )


def _full_size(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    found = [one for one in file.series if not one.keyframe.is_reduced]
    if found and found[0].kind == "svs":
        # An Aperio slide has a thumbnail that is not marked as one.
        found = [one for one in found if one.name == "Baseline"]
    if len(found) != 1:
        raise FormatError(f"the TIFF file holds {len(found)} images, but one is needed; save each in its own file")
    return found[0]


def _axes(series: tifffile.TiffPageSeries) -> tuple[tuple[int, ...], tuple[Axis, ...]]:
    # Axes of one entry change nothing in the file, wherever they stand.
    kept = [axis for axis, size in enumerate(series.shape) if size != 1 or series.axes[axis] in "YX"]
    shape, letters = tuple(series.shape[axis] for axis in kept), "".join(series.axes[axis] for axis in kept)
    orientation = int(series.keyframe.tags.valueof(ORIENTATION_TAG, default=1))
    # The strides of an array that is never read tell where each axis went, so that the rules stay those of `formats`.
    marks = [1 << axis for axis in range(len(shape))]
    upright = turn_upright(put_channels_last(as_strided(np.zeros(1, np.uint8), shape, marks), letters), orientation)
    return shape, tuple(Axis(marks.index(abs(stride)), stride < 0) for stride in upright.strides)


def _array(file: tifffile.TiffFile, series: tifffile.TiffPageSeries, shape: tuple[int, ...]) -> "_Plain | _Coded":
    pages = [one for one in series.pages if one is not None]
    page = series.keyframe
    num_leading = len(shape) - len(page.shape)
    is_known = series.transform is None and all(one.parent is file for one in pages)
    if is_known and series.dataoffset is not None:
        return _Plain(file, shape, series.dtype, [series.dataoffset], 0)
    if is_known and shape[num_leading:] == page.shape and prod(shape[:num_leading]) == len(pages):
        if all(one.is_final for one in pages):
            return _Plain(file, shape, series.dtype, [one.dataoffsets[0] for one in pages], num_leading)
        return _Coded(file, pages, shape, series.dtype)
    raise FormatError(
        f"the TIFF file stores its shape {series.shape} (axes {series.axes}) over several files or in a way that is "
        "not read in parts; save it as one TIFF file in tiles"
    )


class _Plain:
    """Numbers that lie in the file as they are, page after page."""

    def __init__(
        self,
        file: tifffile.TiffFile,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offsets: list[int],
        num_leading: int,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._file, self._offsets, self._num_leading = file, offsets, num_leading
        self._stored_dtype = dtype.newbyteorder(file.byteorder)

    def read(self, region: Region) -> np.ndarray:
        out = np.empty([wanted.stop - wanted.start for wanted in region], self._stored_dtype)
        # All axes behind the last one that is wanted in part are read at once.
        parts = [axis for axis, wanted in enumerate(region) if wanted.stop - wanted.start < self.shape[axis]]
        last = max([*parts, self._num_leading])
        strides = [prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        page_size = prod(self.shape[self._num_leading :])
        places = product(*(range(wanted.start, wanted.stop) for wanted in region[:last]))
        for place in places if out.size else ():
            target = tuple(index - wanted.start for index, wanted in zip(place, region, strict=False))
            start = [*place, region[last].start]
            page, within = divmod(sum(i * n for i, n in zip(start, strides, strict=False)), page_size)
            self._fill(out[target], self._offsets[page] + within * self.dtype.itemsize)
        return out.astype(self.dtype, copy=False)

    def _fill(self, run: np.ndarray, offset: int) -> None:
        self._file.filehandle.seek(offset)
        data = self._file.filehandle.read(run.nbytes)
        if len(data) != run.nbytes:
            raise EOFError(f"the file ends within the {run.nbytes} bytes at {offset}")
        run[...] = np.frombuffer(data, run.dtype).reshape(run.shape)

    def close(self) -> None:
        self._file.close()


class _Coded:
    """Numbers that lie in the file as tiles or strips, compressed or not."""

    def __init__(
        self,
        file: tifffile.TiffFile,
        pages: list[tifffile.TiffPage | tifffile.TiffFrame],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._file, self._pages, self._lock = file, pages, Lock()
        page = pages[0].keyframe
        assert page is not None
        _check_codec(page)
        page.decode  # noqa: B018  # made here, since two threads will use it
        chunk = {
            "Y": page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength),
            "X": page.tilewidth if page.is_tiled else page.imagewidth,
            "S": page.samplesperpixel if page.planarconfig == 1 else 1,
        }
        lengths = [chunk[letter] for letter in page.axes]
        self._leading = shape[: len(shape) - len(lengths)]
        self._grid = tuple(-(-size // length) for size, length in zip(page.shape, lengths, strict=True))
        self._segments = Segments(self.shape, (1,) * len(self._leading) + tuple(lengths), self.dtype, self._decode)

    def read(self, region: Region) -> np.ndarray:
        return self._segments.read(region)

    def close(self) -> None:
        self._segments.close()
        self._file.close()

    def _decode(self, place: tuple[int, ...]) -> np.ndarray:
        num_leading = len(self._leading)
        page = self._pages[_number(place[:num_leading], self._leading)]
        index = _number(place[num_leading:], self._grid)
        keyframe, data = page.keyframe, self._bytes(page.dataoffsets[index], page.databytecounts[index])
        assert keyframe is not None
        tables = {}
        if page.jpegtables is not None or keyframe.jpegheader is not None:
            tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        segment, _, (_, height, width, samples) = keyframe.decode(data, index, **tables)
        if segment is None:
            # A tile that was never written.
            segment = np.broadcast_to(self.dtype.type(keyframe.nodata), (1, height, width, samples))
        _, height, width, samples = segment.shape
        shape = tuple({"Y": height, "X": width, "S": samples}[letter] for letter in keyframe.axes)
        return np.asarray(segment).reshape((1,) * num_leading + shape)

    def _bytes(self, offset: int, count: int) -> bytes | None:
        if offset == 0 or count == 0:
            return None
        with self._lock:
            self._file.filehandle.seek(offset)
            data: bytes = self._file.filehandle.read(count)
        if len(data) != count:
            raise EOFError(f"the file ends within the {count} bytes at {offset}")
        return data


def _number(place: tuple[int, ...], shape: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(place, shape)) if place else 0


def _check_codec(page: tifffile.TiffPage) -> None:
    try:
        if page.compression != 1:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        if page.predictor != 1 and page.compression not in tifffile.TIFF.IMAGE_COMPRESSIONS:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError as error:
        raise MissingCodecError(
            f"the compression of the TIFF file, {page.compression!r} with predictor {page.predictor}, cannot be "
            "decoded; save it with zlib or LZW"
        ) from error
