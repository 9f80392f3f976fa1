"""Tests of what is particular to TIFF: pyramids, tiles that were never written, damage."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from segwright.data import raster_source
from segwright.data.images import UnreadableFileError, read_image
from segwright.data.rasters import open_raster, raster_size


def random_pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def assert_read(path: Path, pixels: np.ndarray) -> None:
    with open_raster(path, pixels.shape[-1]) as raster:
        height, width, _ = raster.shape
        assert (height, width) == raster_size(path)
        assert np.array_equal(raster[0:height, 0:width], pixels)
        assert np.array_equal(raster[5:20, 3:18], pixels[5:20, 3:18])


def write_pyramid(path: Path, pixels: np.ndarray, *, ome: bool) -> None:
    """Half-size levels below the image: in its sub-directories (OME) or as reduced pages (as GDAL does)."""
    options = {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=ome) as file:
        file.write(pixels, subifds=2 if ome else None, metadata={"axes": "YXS"} if ome else None, **options)
        for step in (2, 4):
            file.write(pixels[::step, ::step], subfiletype=1, metadata=None, **options)


@pytest.mark.parametrize("ome", [False, True])
def test_of_a_pyramid_the_full_size_is_read(tmp_path, ome):
    pixels = random_pixels(64, 80, 3)
    write_pyramid(tmp_path / "a.tif", pixels, ome=ome)

    assert_read(tmp_path / "a.tif", pixels)


def test_a_preview_beside_the_image_is_left_out(tmp_path):
    pixels = random_pixels(64, 80, 3, dtype="uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(random_pixels(9, 11, 3), photometric="rgb", subfiletype=1, metadata=None)
        file.write(pixels, photometric="rgb", metadata=None)

    assert_read(tmp_path / "a.tif", pixels)


def test_of_an_aperio_slide_the_full_size_is_read(tmp_path):
    """The order of pages that the scanner writes: full size, thumbnail, levels, label, macro."""
    pixels = random_pixels(128, 160, 3)
    tiles = {"photometric": "rgb", "tile": (16, 16), "compression": "jpeg", "metadata": None}
    strips = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(pixels, description="Aperio Image Library v10.0.51\n128x160 |AppMag = 20", **tiles)
        file.write(pixels[::4, ::4], description="Aperio Image Library thumbnail", **strips)
        file.write(pixels[::2, ::2], description="Aperio Image Library level", **tiles)
        file.write(pixels[:20, :20], description="Aperio Image Library label", subfiletype=1, **strips)
        file.write(pixels[:20, :30], description="Aperio Image Library macro", subfiletype=9, **strips)
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        assert file.is_svs
        expected = file.pages[0].asarray()

    assert_read(tmp_path / "a.svs", expected)


def test_channels_on_pages_with_gaps_between_them_are_read(tmp_path):
    pixels = random_pixels(40, 50, 4, dtype="uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for channel in range(4):
            file.write(pixels[..., channel], contiguous=False, metadata=None)

    assert_read(tmp_path / "a.tif", pixels)


def test_an_image_of_imagej_that_is_told_by_its_first_page_only_is_read(tmp_path):
    pixels = random_pixels(40, 50, 4, dtype="uint16")
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(pixels, -1, 0), imagej=True, truncate=True, metadata={"axes": "CYX"}
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1

    assert_read(tmp_path / "a.tif", pixels)


def test_an_array_with_one_channel_in_its_last_axis_is_read(tmp_path):
    pixels = random_pixels(40, 50, 1)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(16, 16), compression="zlib")

    assert_read(tmp_path / "a.tif", pixels)


@pytest.mark.parametrize("nodata", [None, 7])
def test_tiles_that_were_never_written_have_the_value_of_missing_pixels(tmp_path, nodata):
    tags = [] if nodata is None else [(42113, 2, 2, str(nodata), True)]
    tile = random_pixels(16, 16)

    def tiles():
        yield tile
        yield from [None] * 5

    tifffile.imwrite(
        tmp_path / "a.tif", tiles(), shape=(32, 48), dtype=np.uint8, tile=(16, 16), compression="zlib", extratags=tags
    )
    expected = np.full((32, 48, 1), nodata or 0, np.uint8)
    expected[:16, :16, 0] = tile

    assert_read(tmp_path / "a.tif", expected)
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)


def test_two_images_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(random_pixels(40, 50))
        file.write(random_pixels(30, 20))

    with pytest.raises(UnreadableFileError, match="holds 2 images"):
        open_raster(tmp_path / "a.tif", 1)


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_stacks_are_refused(tmp_path, axes):
    tifffile.imwrite(tmp_path / "a.tif", random_pixels(6, 9, 8), imagej=True, metadata={"axes": axes})

    for read in (raster_size, lambda path: open_raster(path, 1)):
        with pytest.raises(UnreadableFileError, match="stack of shape"):
            read(tmp_path / "a.tif")


@pytest.mark.parametrize("is_there", [False, True])
def test_an_image_over_several_files_is_refused(tmp_path, is_there):
    """The planes of a file that is missing would be zeros."""
    description = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" '
        'SizeY="40" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        '<Channel ID="Channel:0:1" SamplesPerPixel="1"/><TiffData FirstC="0" IFD="0" PlaneCount="1">'
        '<UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData><TiffData FirstC="1" IFD="0" PlaneCount="1">'
        '<UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    for name in ("a", "b") if is_there else ("a",):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", random_pixels(40, 50), description=description, metadata=None)

    with pytest.raises(UnreadableFileError, match="over several files"):
        open_raster(tmp_path / "a.ome.tif", 2)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16), "compression": "zlib"}, {"compression": "lzw"}])
def test_files_that_are_cut_short_are_errors_and_print_nothing(tmp_path, capfd, share, layout):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels(64, 80, 3), photometric="rgb", **layout)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    with pytest.raises(UnreadableFileError):
        open_raster(path, 3)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_tile_is_an_error_of_its_regions_only(tmp_path):
    pixels, path = random_pixels(64, 80, 3), tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)

    with open_raster(path, 3) as raster:
        assert np.array_equal(raster[16:64, 0:80], pixels[16:])
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            raster[0:10, 0:10]


def test_one_compressed_piece_that_fills_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(raster_source, "MAX_SEGMENT_BYTES", 9_000)
    pixels = random_pixels(64, 80, 3)
    tifffile.imwrite(tmp_path / "plain.tif", pixels, photometric="rgb", rowsperstrip=64)
    tifffile.imwrite(tmp_path / "coded.tif", pixels, photometric="rgb", rowsperstrip=64, compression="zlib")

    assert_read(tmp_path / "plain.tif", pixels)
    with pytest.raises(UnreadableFileError, match="pieces of 15,360 bytes"):
        open_raster(tmp_path / "coded.tif", 3)
    assert raster_size(tmp_path / "coded.tif") == (64, 80)


def test_no_file_stays_open(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels(64, 80, 3), photometric="rgb", tile=(16, 16), compression="zlib")
    with open_raster(path, 3) as raster:
        assert is_open(path)
        raster[0:5, 0:5]
    raster_size(path)
    tifffile.imwrite(tmp_path / "b.tif", random_pixels(6, 9, 8), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(UnreadableFileError):
        open_raster(tmp_path / "b.tif", 1)

    assert not is_open(path)
    assert not is_open(tmp_path / "b.tif")


def is_open(path: Path) -> bool:
    import psutil

    return str(path) in {file.path for file in psutil.Process().open_files()}
