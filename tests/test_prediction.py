"""Tests of predicting arrays, files and folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from segwright.inference.segmenter import Segmenter
from segwright.prediction import find_images, predict, predict_files


def write_image(path: Path, size: tuple[int, int] = (40, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb")
    else:
        cv2.imwrite(str(path), image)
    return path


def test_a_file_and_its_pixels_give_the_same_mask(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    pixels = cv2.imread(str(path))[..., ::-1].copy()
    np.testing.assert_array_equal(predict(tiny_segmenter, path).mask, predict(tiny_segmenter, pixels).mask)


def test_a_mask_is_an_index_png_of_the_size_of_the_image(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png", (33, 71))
    written = predict_files(tiny_segmenter, [path], tmp_path / "out")
    mask = cv2.imread(str(written.done[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (33, 71)
    np.testing.assert_array_equal(mask, predict(tiny_segmenter, path).mask)
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["names"] == ["background", "thing"]


def test_overlays_and_probabilities_are_written(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png")
    drawn = predict_files(tiny_segmenter, [path], tmp_path / "o", output="overlay").done[0]
    assert cv2.imread(str(drawn)).shape == (40, 50, 3)
    stored = predict_files(tiny_segmenter, [path], tmp_path / "p", output="probabilities").done[0]
    probabilities = np.load(stored)["probabilities"]
    assert probabilities.shape == (2, 40, 50)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), predict(tiny_segmenter, path).mask)


def test_a_truncated_file_is_named_and_the_others_are_done(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / f"{name}.png") for name in "abc"]
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    written = predict_files(tiny_segmenter, paths, tmp_path / "out")
    assert [path.name for path in written.done] == ["a.png", "c.png"]
    assert list(written.failed) == [paths[1]]
    assert not list((tmp_path / "out").glob("*.part"))


def test_subfolders_and_suffixes_keep_results_apart(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    files = ["x/a.png", "y/a.png", "y/a.tif", "y/b.v2.png"]
    paths = [write_image(tmp_path / "in" / name) for name in files]
    written = predict_files(tiny_segmenter, paths, tmp_path / "out")
    assert len({path.relative_to(tmp_path / "out") for path in written.done}) == 4
    assert {path.parent.name for path in written.done} == {"x", "y"}


def test_a_georeference_is_kept(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    image = np.zeros((20, 30, 3), np.uint8)
    scale, tie = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 400000.0, 5600000.0, 0.0)
    keys = (1, 1, 0, 1, 3072, 0, 1, 32632)
    tags = [(33550, "d", 3, scale, True), (33922, "d", 6, tie, True), (34735, "H", 8, keys, True)]
    tifffile.imwrite(path, image, photometric="rgb", extratags=tags)
    written = predict_files(tiny_segmenter, [path], tmp_path / "out").done[0]
    with tifffile.TiffFile(written) as file:
        found = file.pages.first.tags
        assert found[33550].value == scale
        assert found[33922].value == tie
        assert found[34735].value == keys
        assert file.asarray().shape == (20, 30)


def test_a_source_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / name) for name in ("a.png", "b.png", "c/d.png")]
    (tmp_path / "in" / "notes.txt").write_text("x")
    assert find_images(str(paths[0])) == [paths[0]]
    assert find_images(str(tmp_path / "in")) == sorted(paths)
    assert find_images(str(tmp_path / "in" / "*.png")) == paths[:2]


@pytest.mark.parametrize("source", ["missing.png", "missing/*.png", "."])
def test_a_source_without_images_is_one_sentence(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match="give an image, a folder"):
        find_images(str(tmp_path / source))


def test_files_and_arrays_average_the_same_views(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png", (32, 64))
    stored = predict_files(tiny_segmenter, [path], tmp_path / "out", output="probabilities", augment="flip").done[0]
    got = predict(tiny_segmenter, path, probabilities=True, augment="flip").probabilities
    pixels = cv2.imread(str(path))[..., ::-1].copy()
    plain = predict(tiny_segmenter, pixels, probabilities=True).probabilities
    mirrored = predict(tiny_segmenter, pixels[:, ::-1].copy(), probabilities=True).probabilities
    assert got is not None
    assert plain is not None
    assert mirrored is not None
    np.testing.assert_allclose(got, (plain + mirrored[..., ::-1]) / 2, atol=1e-6)
    np.testing.assert_allclose(np.load(stored)["probabilities"], got, atol=1e-3)


def test_unknown_views_are_one_sentence_before_anything_is_written(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="augment is 'mirror', but known are none, flip"):
        predict_files(tiny_segmenter, [], tmp_path / "out", augment="mirror")
    assert not (tmp_path / "out").exists()
