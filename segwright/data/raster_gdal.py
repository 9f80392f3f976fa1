"""Regions of what only GDAL opens: virtual rasters, JPEG 2000, ERDAS Imagine, rare compressions of TIFF."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from segwright.data.formats import FormatError
from segwright.data.raster_source import CACHE_BYTES, Axis, Region, Stored, import_large

# Without the second, JPEG 2000 takes all cores.
_SETTINGS = {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_NUM_THREADS": 2}


def open_gdal(path: Path) -> Stored:
    """Open a raster with GDAL.

    Raises:
        FormatError: If GDAL cannot open it, its bands differ in type, or rasterio is not installed.
    """
    dataset = _open(path)
    types = set(dataset.dtypes)
    if len(types) != 1:
        dataset.close()
        raise FormatError(
            f"the raster has {dataset.count} bands of the types {', '.join(sorted(types)) or 'none'}, but bands of one "
            "type are needed; save them with one type"
        )
    kinds = [kind.name for kind in dataset.colorinterp]
    palette = _palette(dataset) if kinds == ["palette"] else None
    axes = (Axis(1), Axis(2)) if palette is not None else (Axis(1), Axis(2), Axis(0))
    return Stored(_Bands(dataset), axes, palette, has_alpha=palette is not None or kinds[-1] == "alpha")


def georeference_gdal(path: Path) -> tifffile.TiffFile | None:
    """A TIFF file in memory with the georeference of a raster; None if it has none.

    Raises:
        FormatError: If GDAL cannot open it, or rasterio is not installed.
    """
    rasterio = import_large("rasterio", f"reading {path.suffix} files")
    with _open(path) as dataset:
        if dataset.crs is None and dataset.transform.is_identity:
            return None
        options = {"crs": dataset.crs, "transform": dataset.transform}
        with rasterio.io.MemoryFile() as memory:
            memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", **options).close()
            return tifffile.TiffFile(io.BytesIO(memory.read()))


def _open(path: Path) -> Any:  # noqa: ANN401
    rasterio = import_large("rasterio", f"reading {path.suffix} files")
    with warnings.catch_warnings(), rasterio.Env(**_SETTINGS):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            return rasterio.open(path)
        except rasterio.errors.RasterioIOError as error:
            raise FormatError(f"GDAL cannot open the file ({error}); copy or export it again") from error


def _palette(dataset: Any) -> np.ndarray:  # noqa: ANN401
    colors = dataset.colormap(1)
    palette = np.zeros((max(colors) + 1, 4), np.uint8)
    palette[list(colors)] = list(colors.values())
    return palette


class _Bands:
    def __init__(self, dataset: Any) -> None:  # noqa: ANN401
        self.shape: tuple[int, ...] = (dataset.count, dataset.height, dataset.width)
        self.dtype = np.dtype(dataset.dtypes[0])
        self._dataset = dataset
        self._environment = import_large("rasterio", "reading").Env

    def read(self, region: Region) -> np.ndarray:
        bands, rows, columns = region
        window = ((rows.start, rows.stop), (columns.start, columns.stop))
        with self._environment(**_SETTINGS):
            return np.asarray(self._dataset.read(list(range(bands.start + 1, bands.stop + 1)), window=window))

    def close(self) -> None:
        self._dataset.close()
