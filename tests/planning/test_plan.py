"""Tests of what the data decides."""

from pathlib import Path

import numpy as np
import pytest
from samples import write_pair

from segwright.data.inspection import inspect
from segwright.planning import plan
from segwright.planning.plan import DEFAULT_MINUTES, choose_crop, complete
from segwright.recipe import load_recipe


def test_open_values_are_filled_and_given_ones_stay(rectangles: Path) -> None:
    recipe = load_recipe(None, ["train.batch_size=3", "transform.flip_vertical=true"], data=str(rectangles))
    got = complete(recipe, inspect(rectangles)).recipe
    assert got.train.batch_size == 3
    assert got.train.minutes == DEFAULT_MINUTES
    assert got.transform["flip_vertical"] is True
    assert all(value is not None for value in got.transform.values())


def test_images_with_a_sky_are_not_turned_upside_down(tmp_path: Path) -> None:
    import cv2

    for number in range(4):
        write_pair(tmp_path, "train", f"{number}", number)
        mask = np.zeros((64, 64), np.uint8)
        mask[:30] = 1
        cv2.imwrite(str(tmp_path / "masks" / "train" / f"{number}.png"), mask)
    got = complete(load_recipe(None, data=str(tmp_path)), inspect(tmp_path)).recipe.transform
    assert got["flip_vertical"] is False
    assert got["flip_horizontal"] is True
    assert got["rotation_degrees"] == 5.0
    assert got["elastic_px"] == 0.0


@pytest.mark.parametrize(
    ("size", "stride", "crop"),
    [
        ((360, 480), 32, (288, 384)),
        ((512, 512), 32, (384, 384)),
        ((64, 64), 32, (64, 64)),
        ((20, 5000), 32, (32, 384)),
        ((1, 1), 16, (32, 32)),
    ],
)
def test_a_crop_fits_the_images_and_the_stride(size: tuple[int, int], stride: int, crop: tuple[int, int]) -> None:
    assert choose_crop(size, stride) == crop


def test_a_step_that_does_not_fit_gets_a_smaller_batch_then_a_smaller_crop(
    rectangles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, inspection = load_recipe(None, ["network.width=4"], data=str(rectangles)), inspect(rectangles)
    whole = plan._step_bytes(complete(recipe, inspection).recipe, inspection)
    monkeypatch.setattr(plan, "free_memory", lambda device: whole / plan.IN_USE - 1)
    got = complete(recipe, inspection)
    assert got.recipe.train.batch_size == 2
    assert list(got.recipe.transform["crop"]) == [64, 64]
    assert got.notes == ("2 images a batch instead of 4, so that a step of ddrnet fits in memory",)
    half = plan._step_bytes(got.recipe, inspection)
    monkeypatch.setattr(plan, "free_memory", lambda device: half / plan.IN_USE - 1)
    assert list(complete(recipe, inspection).recipe.transform["crop"]) == [32, 32]


def test_a_step_that_fits_in_no_size_is_refused(rectangles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"2 crops of 32 x 32 needs about 0\.\d GB, .* take a smaller network"):
        complete(load_recipe(None, data=str(rectangles)), inspect(rectangles))


def test_sizes_that_a_user_gave_are_not_changed(rectangles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda device: 1000)
    given = ["train.batch_size=4", "transform.crop=[64,64]"]
    with pytest.raises(ValueError, match="4 crops of 64 x 64"):
        complete(load_recipe(None, given, data=str(rectangles)), inspect(rectangles))
