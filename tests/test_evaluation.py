"""Tests of evaluating a segmenter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import ready

from segwright.data.inspection import inspect
from segwright.evaluation import Evaluation, evaluate, join
from segwright.inference.cleanup import CleanUp
from segwright.inference.segmenter import Segmenter
from segwright.prediction import predict
from segwright.types import Classes


@pytest.fixture
def evaluation(tiny_segmenter: Segmenter, rectangles: Path) -> Evaluation:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    return evaluate(ready(tiny_segmenter), dataset, "val")


def test_scores_count_every_pixel_once(evaluation: Evaluation) -> None:
    assert evaluation.confusions.shape == (3, 2, 2)
    assert evaluation.confusion.sum() == 3 * 64 * 64


def test_scores_are_those_of_the_predicted_masks(
    evaluation: Evaluation, tiny_segmenter: Segmenter, rectangles: Path
) -> None:
    dataset = inspect(rectangles).dataset
    hits = union = 0
    for pair in dataset.splits["val"]:
        sample = dataset.read(pair)
        predicted = predict(ready(tiny_segmenter), sample.image).mask
        hits += np.sum((predicted == 1) & (sample.mask == 1))
        union += np.sum((predicted == 1) | (sample.mask == 1))
    assert evaluation.iou[1] == pytest.approx(hits / union)


def test_the_protocol_comes_with_the_scores(evaluation: Evaluation) -> None:
    scores = evaluation.scores()
    assert "void" in scores["protocol"]
    low, high = scores["miou_interval"]
    assert low <= scores["miou"] <= high


def test_counts_read_back_as_written(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.save(tmp_path / "e.npz")
    again = Evaluation.load(tmp_path / "e.npz")
    assert again.names == evaluation.names
    assert again.classes == evaluation.classes
    np.testing.assert_array_equal(again.confusions, evaluation.confusions)


def test_a_missing_split_is_one_sentence(tiny_segmenter: Segmenter, rectangles: Path) -> None:
    dataset = replace(inspect(rectangles).dataset, classes=tiny_segmenter.classes)
    with pytest.raises(
        ValueError, match="no images with masks in the split 'test'; splits with images are: train, val"
    ):
        evaluate(ready(tiny_segmenter), dataset, "test")


def test_other_classes_are_refused(tiny_segmenter: Segmenter, rectangles: Path) -> None:
    dataset = replace(inspect(rectangles).dataset, classes=Classes(("a", "b"), ((0, 0, 0), (1, 1, 1))))
    with pytest.raises(ValueError, match="has the classes a, b, but the segmenter knows background, thing"):
        evaluate(ready(tiny_segmenter), dataset, "val")


def test_shares_of_processes_join_to_the_whole(
    evaluation: Evaluation, tiny_segmenter: Segmenter, rectangles: Path
) -> None:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    for size in (2, 4):  # with four processes one has no image
        shares = [evaluate(ready(tiny_segmenter), dataset, "val", share=(rank, size)) for rank in range(size)]
        whole = join(shares)
        assert whole.names == evaluation.names
        np.testing.assert_array_equal(whole.confusions, evaluation.confusions)


def test_further_metrics_are_counted_kept_and_named_in_the_protocol(
    tiny_segmenter: Segmenter, rectangles: Path, tmp_path: Path
) -> None:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    metrics: dict[str, dict[str, object]] = {"surface": {"tolerance": 3.0}, "calibration": {}}
    evaluate(ready(tiny_segmenter), dataset, "val", metrics=metrics).save(tmp_path / "e.npz")
    again = Evaluation.load(tmp_path / "e.npz")
    scores = again.scores()
    assert set(scores["metrics"]) == {"surface", "calibration"}
    assert "3" in again.protocol
    assert 0 <= scores["metrics"]["calibration"]["ece"]["value"] <= 1
    with pytest.raises(ValueError, match="evaluate again with --metrics panoptic"):
        again.measured("panoptic")


def test_views_are_scored_and_named_in_the_protocol(
    tiny_segmenter: Segmenter, rectangles: Path, tmp_path: Path
) -> None:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    augmented = evaluate(ready(tiny_segmenter), dataset, "val", augment="flips")
    hits = 0
    for pair in dataset.splits["val"]:
        sample = dataset.read(pair)
        hits += np.sum((predict(ready(tiny_segmenter), sample.image, augment="flips").mask == 1) & (sample.mask == 1))
    assert augmented.confusion[1, 1] == hits
    augmented.save(tmp_path / "e.npz")
    assert "Predicted with the mean probabilities of 8 views" in Evaluation.load(tmp_path / "e.npz").protocol


def test_the_protocol_says_that_an_image_was_predicted_once(evaluation: Evaluation) -> None:
    assert "Predicted with single scale, no flips." in evaluation.protocol


def test_arguments_of_metrics_read_back_as_they_were(
    tiny_segmenter: Segmenter, rectangles: Path, tmp_path: Path
) -> None:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    found = evaluate(ready(tiny_segmenter), dataset, "val", metrics={"surface": {"spacing": (0.5, 0.5)}})
    found.save(tmp_path / "e.npz")
    again = Evaluation.load(tmp_path / "e.npz")
    assert again.protocol == found.protocol
    assert again.counted[1].arguments == {"tolerance": 1.0, "spacing": (0.5, 0.5), "include_background": True}


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", confusions=np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"old\.npz is damaged or of another version .* evaluate again"):
        Evaluation.load(tmp_path / "old.npz")


def test_the_protocol_says_what_was_tidied_up(tiny_segmenter: Segmenter, rectangles: Path) -> None:
    dataset = inspect(rectangles, tiny_segmenter.description.encoding, tiny_segmenter.classes).dataset
    assert "Predicted with single scale, no flips." in evaluate(ready(tiny_segmenter), dataset, "val").protocol
    cleanup = CleanUp(min_pixels=9, fill_holes=True)
    tiny_segmenter.description = replace(tiny_segmenter.description, cleanup=cleanup)
    assert (
        "no flips; components below 9 pixels removed, holes filled."
        in evaluate(ready(tiny_segmenter), dataset, "val").protocol
    )
