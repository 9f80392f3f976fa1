"""Tests of the learning-rate range test on a recipe."""

from pathlib import Path

import pytest
from samples import TINY

from segwright.rate_sweep import sweep_rate
from segwright.recipe import load_recipe


@pytest.mark.slow
def test_a_sweep_of_a_recipe_suggests_a_rate_that_trains(rectangles: Path) -> None:
    network = [f"network.{key}={value}" for key, value in TINY.items()]
    settings = ["train.batch_size=4", "transform.crop=[64,64]", "train.precision=fp32", "transform.scale=[1,1]"]
    done: list[int] = []
    sweep = sweep_rate(load_recipe(None, [*network, *settings], data=str(rectangles)), steps=60, progress=done.append)
    assert done == list(range(1, len(sweep.rates) + 1))
    assert 1e-5 < sweep.suggestion < 0.5


def test_data_that_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        sweep_rate(load_recipe(None, data=str(tmp_path / "nothing")))
