"""Every network in a whole run: planned, trained for two steps, saved, loaded and used, on images of awkward sizes."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from networks.small import SMALL

from segwright import parts
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.recipe import load_recipe
from segwright.run import train
from segwright.runtimes.torch import TorchEngine


@pytest.mark.slow
@pytest.mark.parametrize("name", parts.list_parts("network"))
def test_a_network_trains_saves_and_predicts(name: str, rectangles: Path, tmp_path: Path) -> None:
    asked = inspect.signature(parts.constructor("network", name)).parameters
    tiny = {key: value for key, value in (("encoder", "test_resnet"), ("weights", "none")) if key in asked}
    network = {"name": name} | tiny | SMALL.get(name, {})
    recipe = load_recipe(None, ["train.steps=2", "train.batch_size=2", "train.validations=1"], data=str(rectangles))
    run = train(recipe.with_values({"network": network}), tmp_path / "run")
    segmenter = Segmenter.load(run.folder)
    mask = predict_image(TorchEngine(segmenter), np.zeros((67, 45, 3), np.uint8)).mask
    assert mask.shape == (67, 45)
    assert mask.max() < len(segmenter.classes)
