"""Tests of regions of large images, with `read_image` of the whole file as the reference."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from segwright.data.images import UnreadableFileError, read_image
from segwright.data.rasters import georeference, open_raster, raster_size

LOSSLESS = [None, "zlib", "lzw", "zstd", "packbits", "lzma", "lerc", "jpegxl"]
LOSSY = ["jpeg", "webp", "jpeg2000"]


def random_pixels(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    if dtype == "bool":
        return values > 0.5
    return (
        (values * 300 - 40).astype(dtype) if dtype in {"int16", "float32", "float64"} else (values * 255).astype(dtype)
    )


def read_all(path: Path, channels: int) -> np.ndarray:
    with open_raster(path, channels) as raster:
        height, width, _ = raster.shape
        return raster[0:height, 0:width]


def assert_same_regions(path: Path, channels: int, seed: int = 0, count: int = 4) -> None:
    """A few regions, in places of all kinds, against the file as a whole."""
    expected = read_image(path)
    height, width = expected.shape[:2]
    places = np.random.default_rng(seed)
    with open_raster(path, channels) as raster:
        assert raster.shape == expected.shape
        assert raster.dtype == expected.dtype
        for _ in range(count):
            (top, bottom), (left, right) = (
                sorted(places.integers(0, length + 1, 2).tolist()) for length in (height, width)
            )
            region = raster[top:bottom, left:right]
            assert region.dtype == expected.dtype
            assert region.flags.c_contiguous
            assert np.array_equal(region, expected[top:bottom, left:right])
        assert np.array_equal(raster[0:height, 0:width], expected)


@st.composite
def written_files(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, object]]:
    """An image and how it is to be written: tiles or strips, channels last, first or as pages, all compressions."""
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32", "int16", "float64", "uint32", "bool"]))
    channels = draw(st.sampled_from([1, 2, 3, 5]))
    # Shorter sides could be taken for channels.
    sides = st.integers(channels + 1 if channels > 1 else 1, 70)
    pixels = random_pixels((draw(sides), draw(sides), channels), dtype)
    order = draw(st.sampled_from(["contig", "separate", "pages"]))
    options: dict[str, object] = {
        "photometric": draw(st.sampled_from(["minisblack", "miniswhite"])),
        "compression": draw(st.sampled_from(LOSSLESS if dtype != "bool" else [None, "zlib", "lzw", "packbits"])),
        "byteorder": draw(st.sampled_from("<>")),
        "bigtiff": draw(st.booleans()),
    }
    if draw(st.booleans()):
        options["tile"] = (draw(st.sampled_from([16, 48])), draw(st.sampled_from([16, 32])))
    else:
        options["rowsperstrip"] = draw(st.integers(1, 80))
    if options["compression"] in {"zlib", "lzw", "zstd"} and dtype != "bool":
        options["predictor"] = draw(st.booleans())
    if order != "pages" and channels > 1:
        options["planarconfig"] = order
    if channels == 1:
        return pixels[..., 0], options
    return pixels if order == "contig" else np.moveaxis(pixels, -1, 0), options


@given(written_files(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.slow
def test_regions_are_those_of_the_whole_image(tmp_path, file, seed):
    pixels, options = file
    path = tmp_path / "a.tif"
    try:
        tifffile.imwrite(path, pixels, **options)
    except (ValueError, RuntimeError, NotImplementedError, KeyError):
        assume(False)  # a compression that does not take these numbers

    assert_same_regions(path, read_image(path).shape[2], seed)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 7}])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_common_layouts_give_the_same_regions(tmp_path, planar, layout, compression, dtype):
    pixels = random_pixels((53, 61, 3), dtype)
    written = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(
        tmp_path / "a.tif", written, photometric="rgb", planarconfig=planar, compression=compression, **layout
    )

    assert_same_regions(tmp_path / "a.tif", 3)
    assert np.array_equal(read_all(tmp_path / "a.tif", 3), pixels)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_big_endian_numbers_and_images_in_which_0_is_white_are_read(tmp_path, layout):
    pixels = random_pixels((40, 53), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=">", photometric="miniswhite", **layout)

    assert_same_regions(tmp_path / "a.tif", 1)
    assert np.array_equal(read_all(tmp_path / "a.tif", 1)[..., 0], 65535 - pixels)


@pytest.mark.parametrize("compression", LOSSY)
@pytest.mark.parametrize("layout", [{"tile": (32, 16)}, {"rowsperstrip": 16}])
def test_lossy_tiles_decode_as_in_the_whole_image(tmp_path, compression, layout):
    smooth = np.add.outer(np.arange(53), np.arange(61))[..., None] + np.array([0, 40, 90])
    tifffile.imwrite(tmp_path / "a.tif", smooth.astype(np.uint8), photometric="rgb", compression=compression, **layout)

    assert_same_regions(tmp_path / "a.tif", 3)


def test_subsampled_jpeg_becomes_rgb(tmp_path):
    smooth = (np.add.outer(np.arange(64), np.arange(80))[..., None] + np.array([0, 40, 90])).astype(np.uint8)
    PillowImage.fromarray(smooth).save(tmp_path / "a.tif", compression="jpeg", quality=95)

    assert_same_regions(tmp_path / "a.tif", 3)
    assert np.abs(read_all(tmp_path / "a.tif", 3).astype(int) - smooth).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32), "compression": "zlib"}])
def test_regions_are_upright(tmp_path, orientation, layout):
    path = tmp_path / "a.tif"
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(path, random_pixels((40, 53, 3)), photometric="rgb", extratags=[tag], **layout)

    assert_same_regions(path, 3)
    assert raster_size(path) == ((40, 53) if orientation < 5 else (53, 40))


@pytest.mark.parametrize("compression", ["group3", "group4", "packbits", "raw"])
def test_one_bit_images_of_pillow_become_0_and_255(tmp_path, compression):
    bits = random_pixels((40, 53), "bool")
    PillowImage.fromarray(bits).save(tmp_path / "a.tif", compression=compression)

    assert np.array_equal(read_all(tmp_path / "a.tif", 1)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_palettes_become_their_colors(tmp_path, layout):
    indices, colors = random_pixels((40, 53)), random_pixels((3, 256), "uint16", seed=1)
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colors * 256, **layout)

    assert np.array_equal(read_all(tmp_path / "a.tif", 3), colors.T.astype(np.uint8)[indices])


def test_one_bit_palettes_become_their_colors(tmp_path):
    bits, colors = random_pixels((40, 56), "bool"), np.array([(1, 2, 3), (4, 5, 6)], np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif",
        bits,
        photometric="minisblack",
        extratags=[(320, 3, 6, (colors.T * 256).ravel().tolist(), True)],
    )
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(3)

    assert np.array_equal(read_all(tmp_path / "a.tif", 3), colors.astype(np.uint8)[bits.astype(int)])


def test_an_opaque_alpha_channel_is_left_out_unless_it_is_wanted(tmp_path):
    pixels = np.dstack([random_pixels((40, 53, 3)), np.full((40, 53), 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))

    assert_same_regions(tmp_path / "a.tif", 3)
    assert np.array_equal(read_all(tmp_path / "a.tif", 4), pixels)


def test_a_transparent_region_is_an_error_and_an_opaque_one_of_the_same_image_is_not(tmp_path):
    pixels = np.dstack([random_pixels((40, 53, 3)), np.full((40, 53), 255, np.uint8)])
    pixels[20, 30, 3] = 254
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16))

    with open_raster(tmp_path / "a.tif", 3) as raster:
        assert np.array_equal(raster[0:20, 0:53], pixels[:20, :, :3])
        with pytest.raises(UnreadableFileError, match="transparent within rows 10 to 21 and columns 0 to 53"):
            raster[10:21, 0:53]


def test_a_fourth_channel_that_is_not_alpha_stays(tmp_path):
    pixels = random_pixels((40, 53, 4))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])

    with open_raster(tmp_path / "a.tif", 3) as raster:
        assert raster.shape == (40, 53, 4)


@pytest.mark.parametrize(
    "region", [np.s_[-1:5, 0:5], np.s_[0:41, 0:5], np.s_[0:5, 7:5], np.s_[0:10:2, 0:5], np.s_[0:10:1, 0:5]]
)
def test_a_region_outside_is_refused(tmp_path, region):
    tifffile.imwrite(tmp_path / "a.tif", random_pixels((40, 53)))

    with open_raster(tmp_path / "a.tif", 1) as raster, pytest.raises(ValueError, match=r"inside \(40, 53\)"):
        raster[region]


def test_complex_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9), np.complex64))

    with pytest.raises(UnreadableFileError, match="real numbers are needed"):
        open_raster(tmp_path / "a.tif", 1)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", r"empty \(0 bytes\)"), (b"\x89PNG", "are read in parts"), (None, "cannot be opened")]
)
def test_what_is_no_raster_is_named(tmp_path, content, reason):
    path = tmp_path / "a.tif"
    if content is not None:
        path.write_bytes(content)

    for read in (raster_size, lambda one: open_raster(one, 3)):
        with pytest.raises(UnreadableFileError, match=reason):
            read(path)


def test_the_size_is_told_without_decoding(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels((40, 53, 3)), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)

    assert raster_size(path) == (40, 53)


@pytest.mark.parametrize("layout", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_threads_may_share_a_raster(tmp_path, layout):
    pixels = random_pixels((200, 210, 3))
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", **layout)
    wrong = []

    with open_raster(tmp_path / "a.tif", 3) as raster:

        def walk(seed: int) -> None:
            places = np.random.default_rng(seed)
            for _ in range(8):
                top, left = places.integers(0, 150, 2).tolist()
                if not np.array_equal(
                    raster[top : top + 50, left : left + 60], pixels[top : top + 50, left : left + 60]
                ):
                    wrong.append((top, left))

        threads = [threading.Thread(target=walk, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert not wrong


def test_the_georeference_is_carried_over_without_the_value_of_missing_pixels(tmp_path):
    tags = [(33550, 12, 3, (0.5, 0.5, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 500.0, 600.0, 0.0), True)]
    nodata = (42113, 2, 2, "0", True)
    tifffile.imwrite(tmp_path / "a.tif", random_pixels((8, 9)), extratags=[*tags, nodata])

    assert georeference(tmp_path / "a.tif") == tags


def test_files_without_georeference_have_none(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_pixels((8, 9)))
    PillowImage.fromarray(random_pixels((8, 9))).save(tmp_path / "a.png")

    assert georeference(tmp_path / "a.tif") == []
    assert georeference(tmp_path / "a.png") == []


def test_reading_and_writing_import_no_torch():
    code = "import sys, segwright.data.rasters, segwright.data.mask_files; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
