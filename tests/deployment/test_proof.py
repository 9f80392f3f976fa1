"""Tests of holding the masks of one engine against those of another."""

import numpy as np
import pytest
from samples import make_tiny_segmenter

from segwright.deployment.proof import Measured, compare, least_equal, measure
from segwright.inference.predictor import predict_image
from segwright.runtimes.torch import TorchEngine
from segwright.types import Sample


def measured(masks: list[np.ndarray], miou: float | None = None, ms: float = 10.0) -> Measured:
    return Measured("engine", tuple(masks), ms, miou)


def masks() -> list[np.ndarray]:
    return [np.zeros((20, 50), np.uint8), np.ones((10, 10), np.uint8)]


def test_equal_pixels_are_counted_over_all_images_and_in_the_worst() -> None:
    other = masks()
    other[0][0, :3] = 1
    other[1][0, 0] = 0
    proof = compare(measured(masks()), measured(other), "fp32")
    assert proof.equal == pytest.approx(1 - 4 / 1100)
    assert proof.equal_worst == pytest.approx(0.99)
    assert proof.delta_miou is None


@pytest.mark.parametrize(
    ("wrong", "precision", "holds"), [(0, "fp32", True), (2, "fp32", False), (2, "bf16", True), (6, "int8", False)]
)
def test_the_tolerance_depends_on_the_number_format(wrong: int, precision: str, holds: bool) -> None:
    other = masks()
    other[0][0, :wrong] = 1
    assert compare(measured(masks()), measured(other), precision).holds is holds


@pytest.mark.parametrize(("miou", "holds"), [(60.4, True), (60.6, False), (59.4, False)])
def test_the_miou_may_change_by_half_a_point(miou: float, holds: bool) -> None:
    proof = compare(measured(masks(), 60.0), measured(masks(), miou), "fp32")
    assert proof.delta_miou == pytest.approx(miou - 60)
    assert proof.holds is holds


def test_the_tolerances_are_those_that_are_promised() -> None:
    assert [least_equal(name) for name in ("fp32", "bf16", "fp16", "int8")] == [0.999, 0.995, 0.995, 0.995]


def test_an_engine_is_measured_on_its_masks() -> None:
    segmenter = make_tiny_segmenter()
    engine = TorchEngine(segmenter, precision="fp32")
    random = np.random.default_rng(0)
    samples = []
    for number in range(3):
        image = random.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        mask = predict_image(engine, image).mask.copy()
        mask[:4] = 255
        samples.append(Sample(str(number), image, mask))
    found = measure(engine, samples)
    assert found.miou == pytest.approx(100)
    assert found.milliseconds > 0
    assert compare(found, found, "fp32").equal == 1
    samples = [Sample(sample.name, sample.image, None) for sample in samples]
    assert measure(engine, samples).miou is None
