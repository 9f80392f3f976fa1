"""Tests of what the data decides."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console
from samples import TINY, write_pair

from segwright.data.inspection import inspect
from segwright.planning.file import plan_to_yaml
from segwright.planning.plan import DEFAULT_MINUTES, complete
from segwright.planning.probe import FEW_PASSES, probe
from segwright.planning.transform import choose_crop
from segwright.recipe import load_recipe
from segwright.report.plan import render_plan


def test_open_values_are_filled_and_given_ones_stay(rectangles: Path) -> None:
    recipe = load_recipe(None, ["train.batch_size=3", "transform.flip_vertical=true"], data=str(rectangles))
    got = complete(recipe, inspect(rectangles)).recipe
    assert got.train.batch_size == 3
    assert got.train.minutes == DEFAULT_MINUTES
    assert got.transform["flip_vertical"] is True
    assert all(value is not None for value in got.transform.values())


def test_images_with_a_sky_are_not_turned_upside_down(tmp_path: Path) -> None:
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
        ((360, 480), 256, (256, 256)),
    ],
)
def test_a_crop_fits_the_images_and_the_stride(size: tuple[int, int], stride: int, crop: tuple[int, int]) -> None:
    assert choose_crop(size, stride) == crop


@pytest.mark.parametrize(("object_width", "side"), [(0, 384), (4, 256), (15, 288), (23, 384), (200, 384)])
def test_narrow_objects_need_less_around_them(object_width: float, side: int) -> None:
    assert choose_crop((512, 512), 32, object_width) == (side, side)


def test_a_network_made_deeper_gets_crops_that_fit_its_own_stride(rectangles: Path) -> None:
    deep = ["network=unetplusplus", "network.depth=6", "network.width=2", "network.dropout=0"]
    got = complete(load_recipe(None, deep, data=str(rectangles)), inspect(rectangles)).recipe
    assert list(got.transform["crop"]) == [64, 64]
    with pytest.raises(ValueError, match="needs multiples of 64"):
        complete(load_recipe(None, [*deep, "transform.crop=[96,96]"], data=str(rectangles)), inspect(rectangles))


def test_thin_objects_get_a_network_with_fine_outputs(tmp_path: Path) -> None:
    for number in range(3):
        write_pair(tmp_path, "train", f"{number}", number)
    assert complete(load_recipe(None, data=str(tmp_path)), inspect(tmp_path)).recipe.network["name"] == "ddrnet"
    mask = np.zeros((64, 64), np.uint8)
    mask[::8] = mask[1::8] = 1  # stripes of 2 pixels on 6
    for number in range(3):
        cv2.imwrite(str(tmp_path / "masks" / "train" / f"{number}.png"), mask)
    plan = complete(load_recipe(None, data=str(tmp_path)), inspect(tmp_path))
    assert plan.recipe.network["name"] == "unet"
    assert plan.choices[2].reason == "objects are about 4 pixels wide, which needs fine outputs"
    asked = load_recipe(None, ["network=ddrnet"], data=str(tmp_path))
    assert complete(asked, inspect(tmp_path)).recipe.network["name"] == "ddrnet"


def test_the_file_of_a_plan_is_the_recipe_with_its_reasons(rectangles: Path, tmp_path: Path) -> None:
    plan = complete(load_recipe(None, ["train.batch_size=2"], data=str(rectangles)), inspect(rectangles))
    text = plan_to_yaml(plan, "How to train\non rectangles")
    (tmp_path / "plan.yaml").write_text(text)
    assert load_recipe(tmp_path / "plan.yaml") == plan.recipe
    assert text.startswith("# How to train\n# on rectangles\n")
    for choice in plan.choices:
        assert text.count(f"  # {choice.reason}\n") >= 1, choice
    assert "batch_size: 2\n" in text


def test_a_probe_tells_how_far_a_run_comes(rectangles: Path) -> None:
    tiny = [f"network.{key}={value}" for key, value in TINY.items()]
    settings = [*tiny, "train.batch_size=2", "train.precision=fp32", "transform.crop=[64,64]"]
    plan = complete(load_recipe(None, [*settings, "train.epochs=4"], data=str(rectangles)), inspect(rectangles))
    pace = probe(plan.recipe, inspect(rectangles))
    assert (pace.steps, pace.passes) == (12, 4)
    assert 0 < pace.seconds_per_step < 10
    assert pace.passes < FEW_PASSES
    assert "each training image is seen 4 times. That is little: give more minutes." in pace.describe()
    timed = plan.recipe.with_values({"train.epochs": None, "train.minutes": 1.0})
    assert probe(timed, inspect(rectangles)).minutes == 1


def test_a_plan_is_shown_with_each_choice_and_its_reason(rectangles: Path) -> None:
    tiny = [f"network.{key}={value}" for key, value in TINY.items()]
    plan = complete(load_recipe(None, [*tiny, "train.steps=5"], data=str(rectangles)), inspect(rectangles))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_plan(plan, probe(plan.recipe, inspect(rectangles))))
    shown = console.export_text()
    assert "transform.crop" in shown
    assert "64 x 64" in shown
    assert all(choice.reason in shown for choice in plan.choices)
