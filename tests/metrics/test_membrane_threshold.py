"""Tests of V_Rand at the best threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.metrics.membrane import Membrane
from segwright.metrics.membrane_threshold import MembraneThreshold


def walls(gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Two cells and the membrane between them, which is predicted with a probability of 0.9 but in one pixel."""
    mask = np.ones((6, 9), np.uint8)
    mask[:, 4] = 0
    probability = np.full((6, 9), 0.01, np.float32)
    probability[:, 4] = 0.9
    probability[2, 4] = gap
    return mask, np.stack([probability, 1 - probability])


def score(*images: tuple[np.ndarray, np.ndarray], **arguments: object) -> dict[str, float]:
    metric = MembraneThreshold(**{"num_classes": 2} | arguments)  # type: ignore[arg-type]
    found = metric.scores(np.sum([metric.count(mask, predicted) for mask, predicted in images], axis=0))
    return {name: float(value) for name, value in found.items()}


def test_a_gap_is_closed_by_a_low_threshold() -> None:
    found = score(walls(gap=0.25))
    assert found["v_rand"] == 1
    assert found["threshold"] == 0.05
    assert score(walls(gap=0.25), thresholds=(0.5,))["v_rand"] < 0.7


def test_one_threshold_is_taken_for_all_images() -> None:
    first, second = walls(gap=0.25), walls(gap=0.25)
    second[1][0, :, :3] = 0.3  # low thresholds lose a part of this cell without thinning
    found = score(first, second, thinning=False, thresholds=(0.2, 0.28, 0.5))
    by_hand = [
        np.mean([score(image, thinning=False, thresholds=(threshold,))["v_rand"] for image in (first, second)])
        for threshold in (0.2, 0.28, 0.5)
    ]
    assert found["v_rand"] == pytest.approx(max(by_hand))
    assert found["threshold"] == (0.2, 0.28, 0.5)[int(np.argmax(by_hand))]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_at_one_half_two_classes_are_scored_as_predicted(seed: int, thinning: bool) -> None:
    random = np.random.default_rng(seed)
    mask = (random.random((14, 17)) < 0.6).astype(np.uint8)
    mask[random.random(mask.shape) < 0.1] = 255
    probability = random.random(mask.shape).astype(np.float32)
    predicted = np.stack([probability, 1 - probability])
    plain = Membrane(0, thinning, num_classes=2)
    expected = plain.scores(plain.count(mask, (probability <= 0.5).astype(np.uint8)))
    found = score((mask, predicted), thinning=thinning, thresholds=(0.5,))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_more_thresholds_never_score_lower(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = (random.random((14, 17)) < 0.6).astype(np.uint8)
    probability = random.random(mask.shape).astype(np.float32)
    image = mask, np.stack([probability, 1 - probability])
    few, many = (score(image, thresholds=thresholds)["v_rand"] for thresholds in ((0.5,), (0.2, 0.5, 0.8)))
    assert many >= few


def test_the_membrane_may_be_any_class_of_several() -> None:
    mask, predicted = walls(gap=0.25)
    three = np.stack([predicted[1] / 2, predicted[1] / 2, predicted[0]])
    assert score((np.where(mask == 0, 2, 0).astype(np.uint8), three), membrane=2, num_classes=3)["v_rand"] == 1


def test_images_without_a_cell_have_no_score() -> None:
    mask, predicted = walls(gap=0.25)
    assert np.isnan(score((np.zeros_like(mask), predicted))["v_rand"])
    assert np.isnan(score((np.full_like(mask, 255), predicted))["threshold"])


def test_leading_axes_are_kept() -> None:
    metric = MembraneThreshold(num_classes=2)
    counts = np.stack([metric.count(*walls(gap)) for gap in (0.02, 0.25, 0.9)])
    assert metric.scores(counts)["v_rand"].shape == (3,)


@pytest.mark.parametrize("thresholds", [(), (0.5, 1.5)])
def test_thresholds_that_are_none_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"probabilities from 0 to 1 are needed; try 0\.2,0\.5"):
        MembraneThreshold(thresholds=thresholds, num_classes=2)


def test_the_protocol_says_how_the_threshold_was_found() -> None:
    protocol = MembraneThreshold(thresholds=(0.2, 0.5), num_classes=2).protocol
    assert "above the threshold, of 0.2, 0.5, that gives the best mean V_Rand on these images" in protocol
    assert "without a search" not in protocol
