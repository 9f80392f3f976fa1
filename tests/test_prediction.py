"""Tests of predicting arrays, files and folders."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from samples import ready

from segwright import prediction
from segwright.inference.cleanup import CleanUp
from segwright.inference.crf import DenseCRF
from segwright.inference.description import Description, Tiling
from segwright.inference.engine import Scores
from segwright.inference.predictor import Predictor
from segwright.inference.segmenter import Segmenter
from segwright.prediction import Options, find_images, predict, predict_files


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
    np.testing.assert_array_equal(
        predict(ready(tiny_segmenter), path).mask, predict(ready(tiny_segmenter), pixels).mask
    )


def test_a_mask_is_an_index_png_of_the_size_of_the_image(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png", (33, 71))
    written = predict_files(ready(tiny_segmenter), [path], tmp_path / "out")
    mask = cv2.imread(str(written.done[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (33, 71)
    np.testing.assert_array_equal(mask, predict(ready(tiny_segmenter), path).mask)
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["names"] == ["background", "thing"]


def test_overlays_and_probabilities_are_written(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png")
    drawn = predict_files(ready(tiny_segmenter), [path], tmp_path / "o", Options("overlay")).done[0]
    assert cv2.imread(str(drawn)).shape == (40, 50, 3)
    stored = predict_files(ready(tiny_segmenter), [path], tmp_path / "p", Options("probabilities")).done[0]
    probabilities = np.load(stored)["probabilities"]
    assert probabilities.shape == (2, 40, 50)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), predict(ready(tiny_segmenter), path).mask)


def test_a_truncated_file_is_named_and_the_others_are_done(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / f"{name}.png") for name in "abc"]
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    written = predict_files(ready(tiny_segmenter), paths, tmp_path / "out")
    assert [path.name for path in written.done] == ["a.png", "c.png"]
    assert list(written.failed) == [paths[1]]
    assert not list((tmp_path / "out").glob("*.part"))


def test_subfolders_and_suffixes_keep_results_apart(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    files = ["x/a.png", "y/a.png", "y/a.tif", "y/b.v2.png"]
    paths = [write_image(tmp_path / "in" / name) for name in files]
    written = predict_files(ready(tiny_segmenter), paths, tmp_path / "out")
    assert len({path.relative_to(tmp_path / "out") for path in written.done}) == 4
    assert {path.parent.name for path in written.done} == {"x", "y"}


def test_a_georeference_is_kept(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "map.tif"
    image = np.zeros((20, 30, 3), np.uint8)
    scale, tie = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 400000.0, 5600000.0, 0.0)
    keys = (1, 1, 0, 1, 3072, 0, 1, 32632)
    tags = [(33550, "d", 3, scale, True), (33922, "d", 6, tie, True), (34735, "H", 8, keys, True)]
    tifffile.imwrite(path, image, photometric="rgb", extratags=tags)
    written = predict_files(ready(tiny_segmenter), [path], tmp_path / "out").done[0]
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
    stored = predict_files(ready(tiny_segmenter), [path], tmp_path / "out", Options("probabilities", "flip")).done[0]
    got = predict(ready(tiny_segmenter), path, probabilities=True, augment="flip").probabilities
    pixels = cv2.imread(str(path))[..., ::-1].copy()
    plain = predict(ready(tiny_segmenter), pixels, probabilities=True).probabilities
    mirrored = predict(ready(tiny_segmenter), pixels[:, ::-1].copy(), probabilities=True).probabilities
    assert got is not None
    assert plain is not None
    assert mirrored is not None
    np.testing.assert_allclose(got, (plain + mirrored[..., ::-1]) / 2, atol=1e-6)
    np.testing.assert_allclose(np.load(stored)["probabilities"], got, atol=1e-3)


def test_unknown_views_are_one_sentence_before_anything_is_written(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="augment is 'mirror', but known are none, flip"):
        predict_files(ready(tiny_segmenter), [], tmp_path / "out", Options(augment="mirror"))
    assert not (tmp_path / "out").exists()


def test_results_that_are_there_stay_when_a_prediction_goes_on(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / f"{name}.png") for name in "abc"]
    predict_files(ready(tiny_segmenter), paths[:2], tmp_path / "out")
    marked = tmp_path / "out" / "a.png"
    marked.write_bytes(b"as it was")
    written = predict_files(ready(tiny_segmenter), paths, tmp_path / "out", resume=True)
    assert [path.name for path in written.kept] == ["a.png", "b.png"]
    assert [path.name for path in written.done] == ["c.png"]
    assert marked.read_bytes() == b"as it was"


def test_results_of_something_else_are_not_completed(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png")
    predict_files(ready(tiny_segmenter), [path], tmp_path / "out")
    for options in (Options("overlay"), Options(augment="flip"), Options(crf=DenseCRF())):
        with pytest.raises(ValueError, match="another segmenter or with other options"):
            predict_files(ready(tiny_segmenter), [path], tmp_path / "out", options, resume=True)


def test_a_mask_of_another_image_is_not_taken_for_a_result(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / name) for name in ("a.png", "a_overlay.png")]
    predict_files(ready(tiny_segmenter), paths[1:], tmp_path / "out")
    assert [path.name for path in predict_files(ready(tiny_segmenter), paths, tmp_path / "out", resume=True).done] == [
        "a.png"
    ]


def test_names_that_would_meet_stay_apart(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / name) for name in ("a.png", "a.tif", "a_png.png")]
    assert len(set(predict_files(ready(tiny_segmenter), paths, tmp_path / "out").done)) == 3


def test_an_image_is_never_replaced_by_its_mask(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.png")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="would replace an image"):
        predict_files(ready(tiny_segmenter), [path], tmp_path / "in")
    assert path.read_bytes() == before


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "LARGE_PIXELS", 1000)


class Bright:
    """An engine that gives class 1 to bright pixels, so that noise has many small components."""

    runtime, stride, margin, batch_size = "brightness", 32, 0, 1

    def __init__(self, description: Description) -> None:
        self.description = description

    def __call__(self, images: np.ndarray, /, *, with_logits: bool) -> Scores:
        value = images[..., 0].astype(np.float32) - 127.5
        return Scores((value > 0).astype(np.uint8), np.stack([-value, value], axis=1) if with_logits else None)


def large_segmenter(segmenter: Segmenter) -> Segmenter:
    segmenter.description = replace(segmenter.description, tiling=Tiling(0, 64, 32))
    return segmenter


@pytest.mark.usefixtures("small_is_large")
def test_a_large_file_gets_the_mask_of_its_array(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.tif", (210, 170))
    segmenter, shares = ready(large_segmenter(tiny_segmenter)), []
    written = predict_files(segmenter, [path], tmp_path / "out", progress=shares.append)
    assert [file.name for file in written.done] == ["a.tif"]
    np.testing.assert_array_equal(tifffile.imread(written.done[0]), predict(segmenter, path).mask)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > 3
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"a.tif", "classes.json"}


@pytest.mark.usefixtures("small_is_large")
def test_a_large_mask_is_tidied_up_as_any_other(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.tif", (210, 170))
    engine = Bright(large_segmenter(tiny_segmenter).description)
    untidy = predict(Predictor(engine), path).mask
    engine.description = replace(engine.description, cleanup=CleanUp(min_pixels=4))
    found = tifffile.imread(predict_files(Predictor(engine), [path], tmp_path / "out").done[0])
    np.testing.assert_array_equal(found, predict(Predictor(engine), path).mask)
    assert (found != untidy).any()


@pytest.mark.usefixtures("small_is_large")
def test_a_large_mask_goes_on_where_it_was_stopped(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    path = write_image(tmp_path / "in" / "a.tif", (210, 170))
    segmenter, bands = ready(large_segmenter(tiny_segmenter)), []

    def stop(share: float) -> None:
        bands.append(share)
        if len(bands) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_files(segmenter, [path], tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "a.tif").exists()
    shares: list[float] = []
    written = predict_files(segmenter, [path], tmp_path / "out", resume=True, progress=shares.append)
    assert shares[0] == pytest.approx(sum(bands))
    np.testing.assert_array_equal(tifffile.imread(written.done[0]), predict(segmenter, path).mask)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize(("options", "word"), [(Options("overlay"), "overlay"), (Options(crf=DenseCRF()), "CRF")])
def test_what_needs_the_whole_of_a_large_image_is_refused(
    tiny_segmenter: Segmenter, tmp_path: Path, options: Options, word: str
) -> None:
    path = write_image(tmp_path / "in" / "a.tif", (64, 64))
    written = predict_files(ready(tiny_segmenter), [path], tmp_path / "out", options)
    assert word in written.failed[path]


@pytest.mark.usefixtures("small_is_large")
def test_a_large_image_of_other_channels_is_named(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    written = predict_files(ready(tiny_segmenter), [path], tmp_path / "out")
    assert "5 channels, but this segmenter was trained on 3" in written.failed[path]
