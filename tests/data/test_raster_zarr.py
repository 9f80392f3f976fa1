"""Tests of Zarr arrays and OME-Zarr images."""

import sys
from pathlib import Path

import numpy as np
import pytest

from segwright.data.images import UnreadableFileError
from segwright.data.rasters import georeference, open_raster, raster_size

zarr = pytest.importorskip("zarr")


def random_pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def write_array(path: Path, pixels: np.ndarray, *, chunks: tuple[int, ...] | None = None, **options) -> None:
    chunks = chunks or tuple(min(16, length) for length in pixels.shape)
    array = zarr.create_array(str(path), shape=pixels.shape, chunks=chunks, dtype=pixels.dtype, **options)
    array[...] = pixels


def write_ome(path: Path, pixels: np.ndarray, axes: str, *, version: str = "0.4", images: int = 1) -> None:
    """A group with two levels, and the metadata of that version of OME-Zarr."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    for name, level in (("full", pixels), ("half", pixels[..., ::2, ::2])):
        chunks = tuple(min(16, length) for length in level.shape)
        group.create_array(name, shape=level.shape, chunks=chunks, dtype=level.dtype)[...] = level
    named = {"0.1": None, "0.3": list(axes)}.get(version, [{"name": name, "type": "space"} for name in axes])
    image = {"version": version, "datasets": [{"path": "full"}, {"path": "half"}]} | ({"axes": named} if named else {})
    described = {"multiscales": [image] * images}
    group.attrs.update({"ome": described} if version == "0.5" else described)


def assert_read(path: Path, pixels: np.ndarray) -> None:
    """All of it and a region; `pixels` is (H, W, C)."""
    with open_raster(path, pixels.shape[-1]) as raster:
        assert raster.shape == pixels.shape
        assert raster.dtype == pixels.dtype
        assert np.array_equal(raster[0 : pixels.shape[0], 0 : pixels.shape[1]], pixels)
        assert np.array_equal(raster[5:30, 13:18], pixels[5:30, 13:18])
    assert raster_size(path) == pixels.shape[:2]
    assert georeference(path) == []


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_arrays_of_both_formats_are_read(tmp_path, zarr_format, dtype):
    pixels = random_pixels(40, 53, 3, dtype=dtype)
    write_array(tmp_path / "a.zarr", pixels, zarr_format=zarr_format)

    assert_read(tmp_path / "a.zarr", pixels)


def test_arrays_with_two_axes_have_one_channel(tmp_path):
    pixels = random_pixels(40, 53)
    write_array(tmp_path / "a.zarr", pixels)

    assert_read(tmp_path / "a.zarr", pixels[..., None])


def test_big_endian_and_other_numbers_are_converted(tmp_path):
    pixels = random_pixels(40, 53)
    write_array(tmp_path / "a.zarr", pixels.astype(">u2"), zarr_format=2)
    write_array(tmp_path / "b.zarr", pixels.astype("int32") - 9)
    write_array(tmp_path / "c.zarr", pixels > 100)

    assert_read(tmp_path / "a.zarr", pixels[..., None].astype(np.uint16))
    assert_read(tmp_path / "b.zarr", pixels[..., None].astype(np.float32) - 9)
    assert_read(tmp_path / "c.zarr", (pixels[..., None] > 100) * np.uint8(255))


def test_shards_are_read(tmp_path):
    pixels = random_pixels(40, 53, 3)
    write_array(tmp_path / "a.zarr", pixels, chunks=(8, 8, 3), shards=(16, 32, 3))

    assert_read(tmp_path / "a.zarr", pixels)


def test_axes_of_an_array_that_are_named_are_found_by_their_names(tmp_path):
    pixels = random_pixels(40, 53, 3)
    write_array(tmp_path / "a.zarr", np.moveaxis(pixels, -1, 0), dimension_names=["c", "y", "x"])

    assert_read(tmp_path / "a.zarr", pixels)


def test_chunks_that_were_never_written_have_the_fill_value(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(40, 53), chunks=(16, 16), dtype="uint8", fill_value=9)

    assert_read(tmp_path / "a.zarr", np.full((40, 53, 1), 9, np.uint8))


@pytest.mark.parametrize("version", ["0.1", "0.3", "0.4", "0.5"])
def test_of_an_ome_image_the_full_size_is_read(tmp_path, version):
    pixels = random_pixels(40, 53, 3)
    write_ome(tmp_path / "a.zarr", np.moveaxis(pixels, -1, 0)[None, :, None], "tczyx", version=version)

    assert_read(tmp_path / "a.zarr", pixels)


@pytest.mark.parametrize("axes", ["yx", "zyx", "yxc", "cyx"])
def test_axes_of_an_ome_image_are_found_by_their_names(tmp_path, axes):
    pixels = random_pixels(40, 53, 2 if "c" in axes else 1)
    stored = np.einsum("yxc->" + axes.replace("z", ""), pixels) if "c" in axes else pixels[..., 0]
    write_ome(tmp_path / "a.zarr", stored[None] if "z" in axes else stored, axes)

    assert_read(tmp_path / "a.zarr", pixels)


def test_volumes_are_refused(tmp_path):
    write_ome(tmp_path / "a.zarr", random_pixels(5, 40, 53), "zyx")
    write_array(tmp_path / "b.zarr", random_pixels(5, 6, 40, 53))
    write_array(tmp_path / "c.zarr", random_pixels(40))

    with pytest.raises(UnreadableFileError, match=r"shape \(5, 40, 53\) with the axes z, y, x, but one image"):
        open_raster(tmp_path / "a.zarr", 1)
    for name in ("b.zarr", "c.zarr"):
        with pytest.raises(UnreadableFileError, match="but one image"):
            raster_size(tmp_path / name)


def test_a_group_that_is_not_one_image_is_refused(tmp_path):
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    write_ome(tmp_path / "b.zarr", random_pixels(40, 53), "yx", images=2)

    with pytest.raises(UnreadableFileError, match="describes 0 OME-Zarr images"):
        open_raster(tmp_path / "a.zarr", 1)
    with pytest.raises(UnreadableFileError, match="describes 2 OME-Zarr images"):
        open_raster(tmp_path / "b.zarr", 1)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UnreadableFileError, match="neither a Zarr array nor an OME-Zarr image"):
        open_raster(tmp_path, 1)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_metadata_are_an_error(tmp_path, zarr_format):
    write_array(tmp_path / "a.zarr", random_pixels(40, 53), zarr_format=zarr_format)
    file = tmp_path / "a.zarr" / {2: ".zarray", 3: "zarr.json"}[zarr_format]
    file.write_text(file.read_text()[:50])

    with pytest.raises(UnreadableFileError):
        open_raster(tmp_path / "a.zarr", 1)


def test_a_damaged_chunk_is_an_error_of_its_regions_only(tmp_path):
    pixels = random_pixels(40, 53)
    write_array(tmp_path / "a.zarr", pixels)
    (tmp_path / "a.zarr" / "c" / "0" / "0").write_bytes(b"damage")

    with open_raster(tmp_path / "a.zarr", 1) as raster:
        assert np.array_equal(raster[16:40, 0:53][..., 0], pixels[16:])
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            raster[0:10, 0:10]


def test_without_zarr_the_extra_is_named(tmp_path, monkeypatch):
    write_array(tmp_path / "a.zarr", random_pixels(40, 53))
    monkeypatch.setitem(sys.modules, "zarr", None)

    with pytest.raises(UnreadableFileError, match=r'pip install "segwright\[large\]"'):
        open_raster(tmp_path / "a.zarr", 1)
