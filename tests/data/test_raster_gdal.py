"""Tests of rasters that only GDAL opens."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segwright.data.images import UnreadableFileError
from segwright.data.rasters import georeference, open_raster, raster_size

rasterio = pytest.importorskip("rasterio")
shutil = pytest.importorskip("rasterio.shutil")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

REFERENCE = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}


def random_pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def write(path: Path, pixels: np.ndarray, driver: str, **options) -> None:
    height, width, count = pixels.shape
    size = {"height": height, "width": width, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver=driver, **size, **options) as file:
        file.write(np.moveaxis(pixels, -1, 0))


def write_virtual(path: Path, *bands: tuple[Path, int, str], size: tuple[int, int], color: str = "Gray") -> None:
    """A virtual raster whose bands are bands of files: file, number, type."""
    sources = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{place}"><ColorInterp>{color}</ColorInterp><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{file}</SourceFilename><SourceBand>{number}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for place, (file, number, kind) in enumerate(bands, 1)
    )
    path.write_text(f'<VRTDataset rasterXSize="{size[1]}" rasterYSize="{size[0]}">{sources}</VRTDataset>')


def assert_read(path: Path, pixels: np.ndarray) -> None:
    with open_raster(path, pixels.shape[-1]) as raster:
        assert raster.shape == pixels.shape
        assert raster.dtype == pixels.dtype
        assert np.array_equal(raster[0 : pixels.shape[0], 0 : pixels.shape[1]], pixels)
        assert np.array_equal(raster[5:30, 13:18], pixels[5:30, 13:18])
    assert raster_size(path) == pixels.shape[:2]


@pytest.mark.parametrize(
    ("suffix", "driver", "options"),
    [("jp2", "JP2OpenJPEG", {"quality": 100, "reversible": True}), ("img", "HFA", {})],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_formats_of_gdal_are_read(tmp_path, suffix, driver, options, dtype):
    pixels = random_pixels(40, 53, 3, dtype=dtype)
    write(tmp_path / f"a.{suffix}", pixels, driver, **options)

    assert_read(tmp_path / f"a.{suffix}", pixels)


def test_other_numbers_become_float32(tmp_path):
    write(tmp_path / "a.img", random_pixels(40, 53, 2, dtype="float64") - 9, "HFA")

    assert_read(tmp_path / "a.img", random_pixels(40, 53, 2, dtype="float32") - 9)


def test_virtual_rasters_join_files(tmp_path):
    pixels = random_pixels(40, 53, 2)
    for band in (0, 1):
        tifffile.imwrite(tmp_path / f"{band}.tif", pixels[..., band])
    bands = [(tmp_path / f"{band}.tif", 1, "Byte") for band in (0, 1)]
    write_virtual(tmp_path / "a.vrt", *bands, size=(40, 53))

    assert_read(tmp_path / "a.vrt", pixels)


def test_bands_of_several_types_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "0.tif", random_pixels(40, 53))
    bands = [(tmp_path / "0.tif", 1, kind) for kind in ("Byte", "Float32")]
    write_virtual(tmp_path / "a.vrt", *bands, size=(40, 53))

    with pytest.raises(UnreadableFileError, match="2 bands of the types float32, uint8"):
        open_raster(tmp_path / "a.vrt", 2)


def test_a_virtual_raster_without_its_file_is_an_error(tmp_path):
    write_virtual(tmp_path / "a.vrt", (tmp_path / "gone.tif", 1, "Byte"), size=(40, 53))

    with open_raster(tmp_path / "a.vrt", 1) as raster, pytest.raises(UnreadableFileError, match="damaged"):
        raster[0:10, 0:10]


def test_an_opaque_alpha_band_is_left_out_and_a_transparent_region_is_an_error(tmp_path):
    pixels = np.dstack([random_pixels(40, 53, 3), np.full((40, 53), 255, np.uint8)])
    pixels[20, 30, 3] = 0
    tifffile.imwrite(tmp_path / "0.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    shutil.copy(tmp_path / "0.tif", tmp_path / "a.vrt", driver="VRT")

    with open_raster(tmp_path / "a.vrt", 3) as raster:
        assert np.array_equal(raster[0:20, 0:53], pixels[:20, :, :3])
        with pytest.raises(UnreadableFileError, match="transparent within rows 0 to 40"):
            raster[0:40, 0:53]
    assert_read(tmp_path / "a.vrt", pixels)


def test_palettes_become_their_colors(tmp_path):
    indices = random_pixels(40, 53, 1) % 4
    colors = np.array([(1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12)], np.uint8)
    with rasterio.open(tmp_path / "a.img", "w", driver="HFA", height=40, width=53, count=1, dtype="uint8") as file:
        file.write(indices[..., 0], 1)
        file.write_colormap(1, {index: tuple(color.tolist()) for index, color in enumerate(colors)})

    assert_read(tmp_path / "a.img", colors[indices[..., 0]])


def test_of_a_cloud_optimized_tiff_the_full_size_is_read_without_its_overviews(tmp_path):
    pixels = random_pixels(1200, 1100, 1)
    write(tmp_path / "a.tif", pixels, "COG", compress="deflate", blocksize=256)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) > 2

    assert_read(tmp_path / "a.tif", pixels)


def test_a_compression_that_imagecodecs_lacks_is_left_to_gdal(tmp_path, monkeypatch):
    pixels = random_pixels(40, 53, 3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="lzw")
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {})

    assert_read(tmp_path / "a.tif", pixels)


def test_a_compression_that_nothing_decodes_is_named(tmp_path, capfd):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels(40, 53), compression="lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(9)

    with pytest.raises(UnreadableFileError, match=r"compression of the TIFF file.*cannot be decoded.*tried GDAL too"):
        open_raster(path, 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["vrt", "jp2", "img"])
def test_damaged_files_are_one_sentence(tmp_path, capfd, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(b"damage")

    for read in (raster_size, georeference):
        with pytest.raises(UnreadableFileError, match="GDAL cannot open the file"):
            read(tmp_path / f"a.{suffix}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "driver"), [("jp2", "JP2OpenJPEG"), ("img", "HFA")])
def test_the_georeference_becomes_tags_of_a_mask(tmp_path, suffix, driver):
    write(tmp_path / f"a.{suffix}", random_pixels(40, 53, 1), driver, **REFERENCE)

    tags = georeference(tmp_path / f"a.{suffix}")

    tifffile.imwrite(tmp_path / "mask.tif", random_pixels(40, 53), extratags=tags)
    with rasterio.open(tmp_path / "mask.tif") as mask:
        assert mask.transform == REFERENCE["transform"]
        assert mask.crs.to_epsg() == 32633


def test_without_georeference_there_are_no_tags(tmp_path):
    write(tmp_path / "a.img", random_pixels(40, 53, 1), "HFA")

    assert georeference(tmp_path / "a.img") == []


def test_without_rasterio_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path / "a.img", random_pixels(40, 53, 1), "HFA")
    monkeypatch.setitem(sys.modules, "rasterio", None)

    for read in (raster_size, georeference):
        with pytest.raises(UnreadableFileError, match=r'reading \.img files needs.*pip install "segwright\[large\]"'):
            read(tmp_path / "a.img")
