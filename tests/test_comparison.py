"""Tests of comparing segmenters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segwright.comparison import compare, load_evaluations
from segwright.evaluation import Counted, Evaluation
from segwright.report.comparison import write_comparison
from segwright.types import Classes

Make = Callable[..., Evaluation]


@pytest.fixture
def make() -> Make:
    """Makes an evaluation whose segmenter gives a share of the pixels a wrong class."""

    def evaluation(error: float, seed: int = 0) -> Evaluation:
        sizes = np.random.default_rng(0).integers(500, 1000, (20, 3))
        shares = np.random.default_rng(seed).uniform(0.5, 1.5, (20, 3)) * error
        wrong = (sizes * shares).astype(np.int64)
        confusions = np.zeros((20, 3, 3), np.int64)
        for label in range(3):
            confusions[:, label, label] = sizes[:, label] - wrong[:, label]
            confusions[:, label, (label + 1) % 3] = wrong[:, label]
        classes = Classes(("sky", "road", "car"), ((0, 0, 255), (90, 90, 90), (255, 0, 0)))
        names = tuple(f"image{number}" for number in range(20))
        return Evaluation("val", names, (Counted("confusion", {}, confusions),), classes, 0.02)

    return evaluation


def test_the_better_segmenter_is_found_and_a_copy_is_called_chance(make: Make) -> None:
    found = compare({"a": make(0.3), "copy": make(0.3), "better": make(0.2, 1)})
    first, copy, better = found.rows
    assert first.difference is None
    assert copy.difference is not None
    assert (copy.difference.value, copy.difference.p_value) == (0, 1)
    assert better.difference is not None
    assert better.difference.value == pytest.approx(float(better.score.value - first.score.value))
    assert better.difference.p_value < 0.01
    np.testing.assert_array_equal(first.by_class, make(0.3).iou)


@pytest.mark.parametrize("score", ["mean_dice", "pixel_accuracy", "frequency_weighted_iou"])
def test_any_score_of_the_set_can_be_compared(make: Make, score: str) -> None:
    found = compare({"a": make(0.3), "b": make(0.2)}, score)
    assert found.rows[1].score.value > found.rows[0].score.value


def test_an_unknown_score_is_refused_with_those_that_exist(make: Make) -> None:
    with pytest.raises(ValueError, match=r"a has no score 'hd95'; it has: .*miou"):
        compare({"a": make(0.3), "b": make(0.2)}, "hd95")


def test_unlike_evaluations_are_refused(make: Make) -> None:
    one, other = make(0.3), make(0.2)
    with pytest.raises(ValueError, match="needs two or more"):
        compare({"a": one})
    with pytest.raises(ValueError, match=r"other images .*a is in one of them only"):
        compare({"a": one, "b": replace(other, names=("a", *other.names[1:]))})
    with pytest.raises(ValueError, match="predicted with 'single scale, no flips', but b with 'flips'"):
        compare({"a": one, "b": replace(other, setting="flips")})
    with pytest.raises(ValueError, match="compare segmenters of the same classes"):
        compare({"a": one, "b": replace(other, classes=Classes(("x", "y", "z"), other.classes.colors))})
    confusions = other.confusions.copy()
    confusions[4, 0, 0] += 1
    with pytest.raises(ValueError, match="the mask of image4 was another one"):
        compare({"a": one, "b": replace(other, counted=(Counted("confusion", {}, confusions),))})


def test_runs_are_named_by_as_much_of_their_paths_as_tells_them_apart(make: Make, tmp_path: Path) -> None:
    runs = [tmp_path / "first" / "run", tmp_path / "second" / "run"]
    for run in runs:
        run.mkdir(parents=True)
        make(0.3).save(run / "evaluation-val.npz")
    assert list(load_evaluations(runs, "val")) == ["first/run", "second/run"]
    with pytest.raises(ValueError, match="one run twice"):
        load_evaluations([runs[0], runs[0]], "val")
    with pytest.raises(ValueError, match=r"segwright evaluate .* DATA --split test --keep"):
        load_evaluations(runs, "test")


def test_the_page_names_the_runs_and_what_is_more_than_chance(make: Make, tmp_path: Path) -> None:
    write_comparison(tmp_path / "page.html", compare({"plain": make(0.3), "<better>": make(0.2)}))
    page = (tmp_path / "page.html").read_text()
    assert "&lt;better&gt;" in page
    assert "more than chance" in page
    assert "paired permutation test" in page


def test_means_over_different_classes_are_refused(make: Make) -> None:
    one, other = make(0.3), make(0.3)
    counts = np.ones((20, 3, 6))
    missed = counts.copy()
    missed[:, 2, :4] = 0  # the last class is never where the mask has it: no distance, and a better mean
    arguments = {"tolerance": 1.0, "spacing": None, "include_background": True}
    with_surface = [
        replace(found, counted=(*found.counted, Counted("surface", arguments, kept)))
        for found, kept in ((one, counts), (other, missed))
    ]
    with pytest.raises(ValueError, match="not scored on the same classes: one has no score for 'car'"):
        compare(dict(zip("ab", with_surface, strict=True)), "mean_hd95")


def test_what_was_kept_comes_before_what_training_left(make: Make, tmp_path: Path) -> None:
    make(0.3).save(tmp_path / "evaluation-val.npz")
    make(0.1).save(tmp_path / "kept-val.npz")
    found = load_evaluations([tmp_path], "val")
    assert next(iter(found.values())).miou == make(0.1).miou
