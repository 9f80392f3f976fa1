"""Regions of Zarr arrays and of the full-size level of OME-Zarr images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segwright.data.formats import FormatError
from segwright.data.raster_source import Axis, Region, Segments, Stored, import_large


def open_zarr(path: Path) -> Stored:
    """Open a Zarr array, format 2 or 3, or an OME-Zarr image.

    Raises:
        FormatError: If it is neither, is no single image, or zarr is not installed.
    """
    zarr = import_large("zarr", "reading a .zarr folder")
    try:
        found = zarr.open(str(path), mode="r")
    except (FileNotFoundError, zarr.errors.BaseZarrError) as error:
        raise FormatError(
            f"the folder is neither a Zarr array nor an OME-Zarr image ({error}); give the folder of one of them"
        ) from error
    array, names = _first_level(found) if isinstance(found, zarr.Group) else (found, _names(found))
    return Stored(_Chunks(array), _axes(names, array.shape))


def _first_level(group: Any) -> tuple[Any, Sequence[str]]:  # noqa: ANN401
    attributes = dict(group.attrs)
    # Since version 0.5 the entries lie one level deeper.
    multiscales = attributes.get("ome", attributes).get("multiscales", [])
    if len(multiscales) != 1:
        raise FormatError(
            f"the Zarr group describes {len(multiscales)} OME-Zarr images, but one is needed; give the folder of one "
            "image or array inside it"
        )
    array = group[multiscales[0]["datasets"][0]["path"]]
    # Before version 0.3 the axes had no names, before version 0.4 no more than names.
    axes = multiscales[0].get("axes", "tczyx")
    return array, [axis["name"] if isinstance(axis, dict) else axis for axis in axes]


def _names(array: Any) -> Sequence[str]:  # noqa: ANN401
    named = getattr(array.metadata, "dimension_names", None)
    return named if named and {"y", "x"} <= set(named) else "yxc"[: max(array.ndim, 2)]


def _axes(names: Sequence[str], shape: tuple[int, ...]) -> tuple[Axis, ...]:
    index = {name: axis for axis, name in enumerate(names)}
    others = [size for name, size in zip(names, shape, strict=False) if name not in {"y", "x", "c"}]
    if len(names) != len(shape) or not {"y", "x"} <= set(index) or any(size != 1 for size in others):
        raise FormatError(
            f"the Zarr array has the shape {tuple(shape)} with the axes {', '.join(map(str, names))}, but one image, "
            "(H, W) or (H, W, C), is needed; save each image as an array of its own"
        )
    return tuple(Axis(index[name]) for name in "yxc" if name in index)


class _Chunks:
    def __init__(self, array: Any) -> None:  # noqa: ANN401
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self._array, self._lengths = array, tuple(array.chunks)
        # Zarr keeps nothing, and overlapping tiles would decode each chunk several times.
        self._segments = Segments(self.shape, self._lengths, self.dtype, self._decode)

    def read(self, region: Region) -> np.ndarray:
        return self._segments.read(region)

    def close(self) -> None:
        self._segments.close()

    def _decode(self, place: tuple[int, ...]) -> np.ndarray:
        spans = zip(place, self._lengths, strict=True)
        return np.asarray(self._array[tuple(slice(index * length, (index + 1) * length) for index, length in spans)])
