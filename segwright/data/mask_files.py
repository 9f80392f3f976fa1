"""Write a mask band after band, in a process that may be killed at any moment and go on later."""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile
from jaxtyping import UInt8

from segwright.data.raster_source import import_large
from segwright.data.rasters import Tag
from segwright.files import write_whole

TILE = 512
"""Side of the tiles of a TIFF mask."""

_CHECK_BYTES = 4
_SYNC_BYTES = 64 * 2**20
# Where classic TIFF ends, less what the tags may take.
_BIG_TIFF_BYTES = 2**32 - 2**25


class MaskFile:
    """A mask that grows from its first row to its last; its file appears when it is whole.

    Until then the rows lie as they are in `NAME.part`, each with its checksum, so that a row that was torn by a kill or
    a power cut does not count. `NAME.part.json` says what they belong to.

    Attributes:
        path: The file to come, `.tif` or `.zarr` (a folder).
        shape: Of the mask; a row is an entry of its first axis.
        rows_done: Complete rows that are there.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rows_done: int) -> None:
        self.path, self.shape, self.rows_done = path, shape, rows_done
        self._part, self._key = _working_files(path)
        self._row_bytes = prod(shape[1:])
        self._unsynced = 0

    @classmethod
    def begin(cls, path: Path, shape: tuple[int, ...], *, key: dict[str, Any], resume: bool) -> Self:
        """Start a mask, or go on with one.

        Args:
            path: File to write, ending in `.tif` or, with any number of axes, `.zarr`; its folder exists.
            shape: (H, W), or more axes.
            key: All that decides what the rows hold, as JSON: image, segmenter, options.
            resume: Go on after the rows that are there; without any, start.

        Raises:
            ValueError: If the suffix or the shape is another, or the rows that are there have another key.
            OSError: If the folder cannot be written; names the file.
        """
        if path.suffix not in {".tif", ".zarr"} or (path.suffix == ".tif" and len(shape) != 2):
            raise ValueError(
                f"{path} of {len(shape)} axes came, but masks are written to .tif (two axes) or .zarr (any); change it"
            )
        if path.suffix == ".zarr":
            import_large("zarr", "writing a .zarr folder")
        wanted = json.loads(json.dumps({**key, "shape of the mask": shape}))
        part, key_file = _working_files(path)
        if resume and part.exists() and key_file.exists():
            found = json.loads(key_file.read_text(encoding="utf-8"))
            others = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            if others:
                raise ValueError(
                    f"{part} holds rows of another prediction ({', '.join(others)} differ), but only the same one goes "
                    "on; start anew without resume, or write to another file"
                )
            return cls(path, shape, _count_rows(part, prod(shape[1:]), shape[0]))
        with _named(path):
            # Gone from the disk before the new key is there, or the old rows could pass for the new ones.
            part.unlink(missing_ok=True)
            _sync(path.parent)
            write_whole(key_file, json.dumps(wanted).encode())
            part.touch()
        return cls(path, shape, 0)

    def append(self, band: UInt8[np.ndarray, "h *S"]) -> None:
        """Add rows below those that are there; they are safe from a kill at once, from a power cut within 64 MB.

        Raises:
            ValueError: If the band does not fit.
            OSError: If the disk is full; names the mask. The rows before stay.
        """
        if band.shape[1:] != self.shape[1:] or self.rows_done + len(band) > self.shape[0]:
            raise ValueError(
                f"a band of shape {band.shape} came after {self.rows_done} rows of a mask of shape {self.shape}; give "
                "the rows that are missing, as wide as the mask"
            )
        record = self._row_bytes + _CHECK_BYTES
        records = self._records(band)
        with _named(self.path), self._part.open("r+b") as file:
            # Over what a torn row or a full disk may have left.
            file.seek(self.rows_done * record)
            file.write(records.data)
            file.truncate()
            file.flush()
            self._unsynced += records.nbytes
            if self._unsynced >= _SYNC_BYTES:
                os.fsync(file.fileno())
                self._unsynced = 0
        self.rows_done += len(band)

    def finish(
        self, tags: Sequence[Tag] = (), tidy: Callable[[UInt8[np.ndarray, "*S"]], UInt8[np.ndarray, "*S"]] | None = None
    ) -> Path:
        """Turn the rows into the mask, which replaces what was at `path`, and remove the working files.

        Args:
            tags: Tags of a TIFF mask, such as `rasters.georeference`.
            tidy: Changes the whole mask before it is written; it is then in memory as a whole, once or several times.

        Raises:
            ValueError: If rows are missing.
            OSError: If the disk is full; names the mask. What was at `path` and the rows stay.
        """
        if self.rows_done < self.shape[0]:
            raise ValueError(f"{self.path} has {self.rows_done} of {self.shape[0]} rows; append the others first")
        if tidy is not None:
            self._tidy(tidy)
        unfinished = self.path.with_name(self.path.name + ".unfinished")
        replaced = self.path.with_name(self.path.name + ".replaced")
        with _named(self.path):
            _remove(unfinished)
            try:
                if self.path.suffix == ".tif":
                    self._write_tiff(unfinished, tags)
                else:
                    self._write_zarr(unfinished)
                # A folder cannot be replaced at once.
                if self.path.is_dir():
                    _remove(replaced)
                    self.path.rename(replaced)
                unfinished.replace(self.path)
                _sync(self.path.parent)
            finally:
                _remove(unfinished)
            _remove(replaced)
            self._part.unlink()
            self._key.unlink()
        return self.path

    def _tidy(self, tidy: Callable[[UInt8[np.ndarray, "*S"]], UInt8[np.ndarray, "*S"]]) -> None:
        """Replace the rows by those of the tidy mask, all at once: what is tidy already stays as it is."""
        mask = np.empty(self.shape, np.uint8)
        for number, rows in enumerate(self._bands(TILE)):
            mask[number * TILE : number * TILE + len(rows)] = rows
        with _named(self.path):
            write_whole(self._part, self._records(tidy(mask)).data)

    def _records(self, band: UInt8[np.ndarray, "h *S"]) -> UInt8[np.ndarray, "h N"]:
        """Rows as they lie in the working file, with their checksums."""
        records = np.empty((len(band), self._row_bytes + _CHECK_BYTES), np.uint8)
        records[:, : self._row_bytes] = band.reshape(len(band), self._row_bytes)
        for row in records:
            row[self._row_bytes :] = _checksum(row[: self._row_bytes])
        return records

    def _write_tiff(self, path: Path, tags: Sequence[Tag]) -> None:
        with path.open("wb") as file:
            tifffile.imwrite(
                file,
                self._tiles(),
                shape=self.shape,
                dtype=np.uint8,
                bigtiff=prod(self.shape) > _BIG_TIFF_BYTES,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="minisblack",
                metadata=None,
                extratags=list(tags),
                maxworkers=2,
                buffersize=64 * TILE * TILE,
            )
            file.flush()
            os.fsync(file.fileno())

    def _tiles(self) -> Iterator[UInt8[np.ndarray, "h w"]]:
        for rows in self._bands(TILE):
            for left in range(0, self.shape[1], TILE):
                tile = np.zeros((TILE, TILE), np.uint8)
                part = rows[:, left : left + TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    def _write_zarr(self, path: Path) -> None:
        zarr = import_large("zarr", "writing a .zarr folder")
        # About a million pixels a chunk: 1024 x 1024, 64 x 64 x 64.
        side = 2 ** (20 // len(self.shape))
        names = list("tzyx"[-len(self.shape) :]) if len(self.shape) <= 4 else None
        with zarr.config.set({"async.concurrency": 2}):
            array = zarr.create_array(
                str(path), shape=self.shape, chunks=(side,) * len(self.shape), dtype="uint8", dimension_names=names
            )
            for number, rows in enumerate(self._bands(side)):
                array[number * side : number * side + len(rows)] = rows
        for written in [path, *path.rglob("*")]:
            _sync(written)

    def _bands(self, height: int) -> Iterator[UInt8[np.ndarray, "h *S"]]:
        record = self._row_bytes + _CHECK_BYTES
        with self._part.open("rb") as file:
            for top in range(0, self.shape[0], height):
                num_rows = min(height, self.shape[0] - top)
                records = np.frombuffer(file.read(num_rows * record), np.uint8).reshape(num_rows, record)
                yield records[:, : self._row_bytes].reshape(num_rows, *self.shape[1:])


def _working_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")


def _checksum(row: UInt8[np.ndarray, "N"]) -> UInt8[np.ndarray, "4"]:
    return np.frombuffer(zlib.crc32(row.data).to_bytes(_CHECK_BYTES, "little"), np.uint8)


def _count_rows(part: Path, row_bytes: int, num_rows: int) -> int:
    """Rows before the first that is torn or that the disk lost."""
    record = row_bytes + _CHECK_BYTES
    with part.open("rb") as file:
        for index in range(num_rows):
            row = np.frombuffer(file.read(record), np.uint8)
            if row.size < record or (row[row_bytes:] != _checksum(row[:row_bytes])).any():
                return index
    return num_rows


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # The system names no file when a write fails.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync(path: Path) -> None:
    # Windows opens no folders.
    if os.name == "posix" or path.is_file():
        descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
