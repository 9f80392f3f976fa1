"""Tests of masks that are written band after band."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segwright.data import mask_files
from segwright.data.mask_files import MaskFile

KEY = {"image": "a.tif", "tile": (512, 512)}


def random_mask(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, shape, dtype=np.uint8)


def write(path: Path, mask: np.ndarray, *, height: int = 7, start: int = 0) -> MaskFile:
    """Appends the rows from `start` on, and does not finish."""
    file = MaskFile.begin(path, mask.shape, key=KEY, resume=start > 0)
    for top in range(start, len(mask), height):
        file.append(mask[top : top + height])
    return file


def read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return tifffile.imread(path)
    return np.asarray(pytest.importorskip("zarr").open(str(path), mode="r")[...])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit on the size of files stands for the full disk; the system's error differs in its number only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(st.integers(1, 1200), st.integers(1, 1200), st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
@pytest.mark.slow
def test_bands_of_any_height_make_the_mask(tmp_path, suffix, height, width, bands):
    mask = random_mask(height, width)
    file = MaskFile.begin(tmp_path / f"a{suffix}", mask.shape, key=KEY, resume=False)
    for band in [*bands, height]:
        file.append(mask[file.rows_done : file.rows_done + band])

    assert file.finish() == tmp_path / f"a{suffix}"

    assert np.array_equal(read(tmp_path / f"a{suffix}"), mask)
    assert names(tmp_path) == {f"a{suffix}"}


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_the_file_appears_when_it_is_whole(tmp_path, suffix):
    path, mask = tmp_path / f"a{suffix}", random_mask(40, 50)

    file = write(path, mask)
    assert names(tmp_path) == {path.name + ".part", path.name + ".part.json"}
    file.finish()

    assert names(tmp_path) == {path.name}
    assert np.array_equal(read(path), mask)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_a_mask_that_was_there_stays_until_the_new_one_is_whole(tmp_path, suffix):
    path, old, new = tmp_path / f"a{suffix}", random_mask(40, 50), random_mask(20, 30, seed=1)
    write(path, old).finish()

    file = write(path, new)
    assert np.array_equal(read(path), old)
    file.finish()

    assert np.array_equal(read(path), new)
    assert names(tmp_path) == {path.name}


def test_tiff_masks_are_tiled_and_compressed_and_carry_tags(tmp_path):
    scale = (33550, 12, 3, (0.5, 0.5, 0.0), True)
    mask = np.repeat(random_mask(600, 1), 700, axis=1)
    write(tmp_path / "a.tif", mask, height=100).finish([scale])

    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        assert (page.tilelength, page.tilewidth) == (512, 512)
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        assert page.tags[33550].value == (0.5, 0.5, 0.0)
        assert not file.is_bigtiff


def test_masks_that_classic_tiff_cannot_hold_are_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr(mask_files, "_BIG_TIFF_BYTES", 1_999)
    write(tmp_path / "a.tif", random_mask(40, 50)).finish()

    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff


def test_zarr_masks_have_square_chunks_and_named_axes(tmp_path):
    zarr = pytest.importorskip("zarr")
    write(tmp_path / "a.zarr", random_mask(40, 50)).finish()

    array = zarr.open(str(tmp_path / "a.zarr"))
    assert array.chunks == (1024, 1024)
    assert array.metadata.dimension_names == ("y", "x")


@pytest.mark.parametrize("shape", [(9, 40, 50), (3, 4, 20, 30)])
def test_masks_with_more_axes_are_zarr_arrays(tmp_path, shape):
    mask = random_mask(*shape)

    write(tmp_path / "a.zarr", mask, height=2).finish()

    assert np.array_equal(read(tmp_path / "a.zarr"), mask)


@pytest.mark.parametrize(("name", "shape"), [("a.png", (4, 5)), ("a.tif", (3, 4, 5))])
def test_other_formats_are_refused(tmp_path, name, shape):
    with pytest.raises(ValueError, match=r"masks are written to \.tif \(two axes\) or \.zarr \(any\)"):
        MaskFile.begin(tmp_path / name, shape, key=KEY, resume=False)


def test_without_zarr_the_extra_is_named_before_any_row(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)

    with pytest.raises(ValueError, match=r'pip install "segwright\[large\]"'):
        MaskFile.begin(tmp_path / "a.zarr", (4, 5), key=KEY, resume=False)


def test_a_mask_goes_on_after_the_rows_that_are_there(tmp_path):
    mask = random_mask(40, 50)
    write(tmp_path / "a.tif", mask[:16])  # of another shape

    MaskFile.begin(tmp_path / "a.tif", mask.shape, key=KEY, resume=False).append(mask[:13])
    resumed = MaskFile.begin(tmp_path / "a.tif", mask.shape, key=KEY, resume=True)
    assert resumed.rows_done == 13
    resumed.append(mask[13:])
    resumed.finish()

    assert np.array_equal(read(tmp_path / "a.tif"), mask)


def test_without_resume_a_mask_starts_anew(tmp_path):
    write(tmp_path / "a.tif", random_mask(40, 50))

    assert MaskFile.begin(tmp_path / "a.tif", (40, 50), key=KEY, resume=False).rows_done == 0
    assert MaskFile.begin(tmp_path / "a.tif", (40, 50), key=KEY, resume=True).rows_done == 0


def test_resume_without_rows_starts(tmp_path):
    assert MaskFile.begin(tmp_path / "a.tif", (40, 50), key=KEY, resume=True).rows_done == 0


@pytest.mark.parametrize(
    ("shape", "key", "named"),
    [((40, 50), {**KEY, "image": "b.tif"}, "image differ"), ((41, 50), KEY, "shape of the mask differ")],
)
def test_rows_of_another_prediction_are_not_continued(tmp_path, shape, key, named):
    write(tmp_path / "a.tif", random_mask(40, 50)[:20].repeat(2, 0))

    with pytest.raises(ValueError, match=named):
        MaskFile.begin(tmp_path / "a.tif", shape, key=key, resume=True)


@pytest.mark.parametrize("lost", [1, 4, 53, 54, 55, 200])
def test_torn_rows_do_not_count_and_are_written_again(tmp_path, lost):
    mask, part = random_mask(40, 50), tmp_path / "a.tif.part"
    write(tmp_path / "a.tif", mask)
    part.write_bytes(part.read_bytes()[:-lost])

    resumed = MaskFile.begin(tmp_path / "a.tif", mask.shape, key=KEY, resume=True)
    assert resumed.rows_done == 40 - -(-lost // 54)  # 50 pixels and 4 bytes to check them
    resumed.append(mask[resumed.rows_done :])
    resumed.finish()

    assert np.array_equal(read(tmp_path / "a.tif"), mask)


def test_rows_that_the_disk_lost_in_a_power_cut_do_not_count(tmp_path):
    """The file has its length, but what was not yet on the disk reads as zeros."""
    mask, part = np.zeros((40, 50), np.uint8), tmp_path / "a.tif.part"
    write(tmp_path / "a.tif", mask)
    content = bytearray(part.read_bytes())
    content[25 * 54 :] = bytes(15 * 54)
    part.write_bytes(content)

    assert MaskFile.begin(tmp_path / "a.tif", mask.shape, key=KEY, resume=True).rows_done == 25


def test_rows_of_an_old_key_do_not_pass_for_those_of_a_new_one(tmp_path, monkeypatch):
    """A kill right after the new key was written."""
    write(tmp_path / "a.tif", random_mask(40, 50))

    def write_and_die(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        raise SystemExit

    monkeypatch.setattr(mask_files, "write_whole", write_and_die)
    with pytest.raises(SystemExit):
        MaskFile.begin(tmp_path / "a.tif", (40, 50), key={"image": "b.tif"}, resume=False)
    monkeypatch.undo()

    assert MaskFile.begin(tmp_path / "a.tif", (40, 50), key={"image": "b.tif"}, resume=True).rows_done == 0


@pytest.mark.parametrize("band", [(1, 49), (3, 50), (1, 50, 1)])
def test_bands_that_do_not_fit_are_refused(tmp_path, band):
    file = MaskFile.begin(tmp_path / "a.zarr", (40, 50), key=KEY, resume=False)
    file.append(random_mask(38, 50))

    with pytest.raises(ValueError, match="came after 38 rows"):
        file.append(random_mask(*band))
    assert file.rows_done == 38


def test_an_unfinished_mask_is_not_written(tmp_path):
    file = MaskFile.begin(tmp_path / "a.tif", (40, 50), key=KEY, resume=False)
    file.append(random_mask(39, 50))

    with pytest.raises(ValueError, match="has 39 of 40 rows"):
        file.finish()
    assert not (tmp_path / "a.tif").exists()


def test_a_full_disk_while_rows_are_added_names_the_mask_and_the_rows_before_stay(tmp_path):
    path, mask = tmp_path / "a.tif", random_mask(40, 50)
    file = MaskFile.begin(path, mask.shape, key=KEY, resume=False)
    file.append(mask[:10])

    with largest_file(1_000), pytest.raises(OSError, match="large") as caught:
        file.append(mask[10:])
    assert caught.value.filename == str(path)
    assert file.rows_done == 10
    file.append(mask[10:12])  # over more rows that were written before the disk was full
    assert MaskFile.begin(path, mask.shape, key=KEY, resume=True).rows_done == 12

    file.append(mask[12:])
    file.finish()
    assert np.array_equal(read(path), mask)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_full_disk_while_it_is_finished_leaves_no_half_mask(tmp_path, suffix, is_replaced):
    path, mask, old = tmp_path / f"a{suffix}", random_mask(700, 600), random_mask(8, 9)
    if is_replaced:
        write(path, old).finish()
    file = write(path, mask, height=500)

    with largest_file(30_000), pytest.raises(OSError, match="large") as caught:
        file.finish()
    assert caught.value.filename == str(path)
    working = {path.name + ".part", path.name + ".part.json"}
    assert names(tmp_path) == working | ({path.name} if is_replaced else set())
    if is_replaced:
        assert np.array_equal(read(path), old)

    MaskFile.begin(path, mask.shape, key=KEY, resume=True).finish()
    assert np.array_equal(read(path), mask)


@pytest.mark.parametrize("suffix", [".tif", ".zarr"])
def test_what_a_kill_left_of_the_last_step_does_not_matter(tmp_path, suffix):
    path, mask = tmp_path / f"a{suffix}", random_mask(40, 50)
    write(path, mask)
    for name in (".unfinished", ".replaced"):
        write(tmp_path / f"b{suffix}", random_mask(8, 9)).finish().rename(path.with_name(path.name + name))

    MaskFile.begin(path, mask.shape, key=KEY, resume=True).finish()

    assert np.array_equal(read(path), mask)
    assert names(tmp_path) == {path.name}


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(tmp_path):
    """The mask of the process that was killed and gone on with is that of one that was not."""
    code = """
import os, signal, sys
from pathlib import Path
import numpy as np
from segwright.data.mask_files import MaskFile
mask = np.random.default_rng(0).integers(0, 5, (400, 300), dtype=np.uint8)
file = MaskFile.begin(Path(sys.argv[1]), mask.shape, key={}, resume=True)
print(file.rows_done)
while file.rows_done < 400:
    file.append(mask[file.rows_done:file.rows_done + 30])
    if file.rows_done in (90, 270) and len(sys.argv) > 2:
        os.kill(os.getpid(), signal.SIGKILL)
file.finish()
"""
    path = tmp_path / "a.tif"
    command = [sys.executable, "-c", code, str(path)]
    runs = [
        subprocess.run([*command, *more], capture_output=True, text=True, check=False) for more in (["k"], ["k"], [])
    ]

    assert [run.returncode for run in runs] == [-9, -9, 0]
    assert runs[2].stdout == "270\n"
    assert np.array_equal(read(path), random_mask(400, 300))
