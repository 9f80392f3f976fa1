"""Tests of segmenters that are several."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.inference.description import Description
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter, build_network, make_ensemble
from segwright.runtimes.torch import TorchEngine


@pytest.fixture
def members(tiny_segmenter: Segmenter) -> list[Segmenter]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        description = Description.from_dict(tiny_segmenter.description.to_dict() | {"mean": [100.0 + seed] * 3})
        made.append(Segmenter(build_network(description), description).eval())
    return made


def test_an_ensemble_says_the_mean_of_its_members(members: list[Segmenter]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    engines = [TorchEngine(one, precision="fp32") for one in (*members, make_ensemble(members, {}))]
    *single, found = [predict_image(engine, image, probabilities=True) for engine in engines]
    expected = np.mean([one.probabilities for one in single], 0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(found.mask, expected.argmax(0))


def test_an_ensemble_is_one_folder_like_any_segmenter(members: list[Segmenter], tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    ensemble = make_ensemble(members, {"miou": 0.5})
    ensemble.save(tmp_path)
    again = Segmenter.load(tmp_path)
    assert again.description.scores == {"miou": 0.5}
    assert again.classes == members[0].classes
    masks = [predict_image(TorchEngine(one), image).mask for one in (again, ensemble)]
    np.testing.assert_array_equal(*masks)


def test_an_ensemble_can_be_exported(members: list[Segmenter]) -> None:
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    ensemble = make_ensemble(members, {})
    exported = torch.export.export(ensemble, (image,)).module()
    torch.testing.assert_close(exported(image), ensemble(image))
