"""Tests of what the data decides."""

from pathlib import Path

import numpy as np
import pytest
from samples import write_pair

from segwright.data.inspection import inspect
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
        ((360, 480), 256, (256, 256)),
    ],
)
def test_a_crop_fits_the_images_and_the_stride(size: tuple[int, int], stride: int, crop: tuple[int, int]) -> None:
    assert choose_crop(size, stride) == crop


def test_a_network_made_deeper_gets_crops_that_fit_its_own_stride(rectangles: Path) -> None:
    deep = ["network=unetplusplus", "network.depth=6", "network.width=2", "network.dropout=0"]
    got = complete(load_recipe(None, deep, data=str(rectangles)), inspect(rectangles)).recipe
    assert list(got.transform["crop"]) == [64, 64]
    with pytest.raises(ValueError, match="needs multiples of 64"):
        complete(load_recipe(None, [*deep, "transform.crop=[96,96]"], data=str(rectangles)), inspect(rectangles))
