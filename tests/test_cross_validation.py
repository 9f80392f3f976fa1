"""Tests of training with parts of the data held out in turn."""

from pathlib import Path

import numpy as np
import pytest
from samples import TINY

from segwright import cross_validation
from segwright.cross_validation import cross_validate
from segwright.evaluation import Evaluation
from segwright.inference.segmenter import Segmenter
from segwright.recipe import Recipe, load_recipe
from segwright.report.run import write_run_report
from segwright.run import Run, train


def recipe(data: Path) -> Recipe:
    network = [f"network.{key}={value}" for key, value in TINY.items()]
    settings = ["train.batch_size=2", "transform.crop=[64,64]", "train.validations=1", "train.folds=3"]
    return load_recipe(None, [*network, *settings, "train.steps=2", "train.precision=fp32"], data=str(data))


@pytest.mark.slow
def test_every_image_is_scored_once_and_the_members_become_one(rectangles: Path, tmp_path: Path) -> None:
    found = cross_validate(recipe(rectangles), tmp_path / "run")
    assert found.is_finished
    assert found.evaluation is not None
    assert list(found.evaluation.names) == [f"{index:02d}" for index in range(9)]
    parts = [Evaluation.load(tmp_path / "run" / f"fold-{number}" / "evaluation-val.npz") for number in (1, 2, 3)]
    assert found.fold_mious == tuple(part.miou for part in parts)
    np.testing.assert_array_equal(found.evaluation.confusion, sum(part.confusion for part in parts))
    assert len(Segmenter.load(tmp_path / "run").network.members) == 3
    fold = Segmenter.load(tmp_path / "run" / "fold-2").description
    assert fold.held_out(rectangles) == (2, 3)
    assert fold.held_out(tmp_path) is None
    assert load_recipe(tmp_path / "run" / "fold-2" / "recipe.yaml").train.validations == 1
    with pytest.raises(ValueError, match="holds several runs"):
        write_run_report(tmp_path / "run")
    with pytest.raises(ValueError, match="go on with --resume"):
        cross_validate(recipe(rectangles), tmp_path / "run")


@pytest.mark.slow
def test_a_stopped_cross_validation_goes_on(rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []

    def stops_in_the_second(part: Recipe, folder: Path, **options: object) -> Run:
        folders.append(folder.name)
        run = train(part, folder, **options)
        return Run(folder, folder.name != "fold-2", run.best_miou)

    monkeypatch.setattr(cross_validation, "train", stops_in_the_second)
    assert not cross_validate(recipe(rectangles), tmp_path / "run").is_finished
    assert folders == ["fold-1", "fold-2"]
    monkeypatch.undo()
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert cross_validate(again, tmp_path / "run", resume=True).is_finished


def test_minutes_are_shared_by_the_folds(rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def notes(part: Recipe, folder: Path, **options: object) -> Run:
        given.append((part.train.fold, part.train.minutes))
        return Run(folder, False, -1.0)

    monkeypatch.setattr(cross_validation, "train", notes)
    timed = recipe(rectangles).with_values({"train.steps": None, "train.minutes": 6.0})
    cross_validate(timed, tmp_path / "run")
    assert given == [(1, 2.0)]


def test_what_is_open_is_decided_once_for_all_folds(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def notes(part: Recipe, folder: Path, **options: object) -> Run:
        given.append(part)
        return Run(folder, True, -1.0)

    monkeypatch.setattr(cross_validation, "train", notes)
    monkeypatch.setattr(cross_validation.Evaluation, "load", lambda path: 1 / 0)
    open_recipe = load_recipe(None, ["train.folds=3"], data=str(rectangles))
    with pytest.raises(ZeroDivisionError):  # after the folds, which leave nothing here
        cross_validate(open_recipe, tmp_path / "run")
    kept = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert kept.network["name"] == "ddrnet"
    assert kept.train.minutes == 20
    assert [part.train.minutes for part in given] == [pytest.approx(20 / 3)] * 3
    assert all(part.transform == kept.transform for part in given)


def test_more_folds_than_images_leave_no_folder(rectangles: Path, tmp_path: Path) -> None:
    many = recipe(rectangles).with_values({"train.folds": 10})
    with pytest.raises(ValueError, match="10 folds need as many or more"):
        cross_validate(many, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_run_of_several_folds_is_refused(rectangles: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.folds asks for several runs"):
        train(recipe(rectangles), tmp_path / "run")
