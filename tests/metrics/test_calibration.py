import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from segwright.metrics.calibration import Calibration


def random_pair(seed: int, num_classes: int = 4, *, shape=(13, 17), void: float = 0.2, ties: bool = False):
    """A mask and probabilities that know about half of it; with ties, many are equal."""
    generator = np.random.default_rng(seed)
    mask = generator.integers(num_classes, size=shape).astype(np.uint8)
    logits = generator.normal(scale=1.5, size=(num_classes, *shape))
    if ties:
        logits = np.round(logits)
    known = generator.random(shape) < 0.5
    logits[mask[known], *np.nonzero(known)] += 2
    exponentials = np.exp(logits)
    mask[generator.random(shape) < void] = 255
    return mask, (exponentials / exponentials.sum(axis=0)).astype(np.float32)


seeds = st.integers(0, 2**31)


def stay_away_from_edges(probabilities, num_bins):
    """Rounding decides the bin of a confidence that is next to an edge, but not on it."""
    places = probabilities.max(axis=0).astype(float) * num_bins
    steps = np.abs(places - np.round(places))
    assume(((steps == 0) | (steps > 1e-5)).all())


def by_definition(mask, probabilities, num_bins):
    """Guo et al., equations 2 to 5, pixel by pixel."""
    bins = [[] for _ in range(num_bins)]
    for place in np.argwhere(mask != 255):
        column = probabilities[:, *place].astype(float)
        number = next(index for index in range(num_bins) if column.max() <= (index + 1) / num_bins)
        bins[number].append((column.max(), int(column.argmax()) == mask[tuple(place)]))
    filled = [np.array(found, float) for found in bins if found]
    gaps = [abs(found[:, 0].mean() - found[:, 1].mean()) for found in filled]
    sizes = [len(found) for found in filled]
    return np.average(gaps, weights=sizes), max(gaps), np.concatenate(filled)[:, 0].mean()


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 20), st.booleans())
def test_scores_are_those_of_the_equations(seed, num_bins, ties):
    pair = random_pair(seed, ties=ties)
    stay_away_from_edges(pair[1], num_bins)
    metric = Calibration(num_bins, num_classes=4)
    scores = metric.scores(metric.count(*pair))
    expected = by_definition(*pair, num_bins)
    np.testing.assert_allclose([scores["ece"], scores["mce"], scores["mean_confidence"]], expected, rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seeds, st.integers(2, 20))
def test_scores_are_those_of_torchmetrics(seed, num_bins):
    mask, probabilities = random_pair(seed, num_bins)
    stay_away_from_edges(probabilities, num_bins)
    metric = Calibration(num_bins, num_classes=num_bins)
    scores = metric.scores(metric.count(mask, probabilities))
    tensors = torch.from_numpy(probabilities)[None], torch.from_numpy(mask.astype(np.int64))[None]
    for name, norm in (("ece", "l1"), ("mce", "max")):
        oracle = multiclass_calibration_error(*tensors, num_bins, num_bins, norm, ignore_index=255)
        assert scores[name] == pytest.approx(oracle.item(), abs=1e-5)


def test_a_worked_example_is_counted_by_hand():
    probabilities = np.array([[0.75, 0.5, 0.25, 1.0, 0.9], [0.25, 0.5, 0.75, 0.0, 0.1]], np.float32)
    mask = np.array([0, 1, 1, 1, 255], np.uint8)
    metric = Calibration(2, num_classes=2)
    # A confidence of 1/2 is in the first bin, and chooses class 0.
    counts = metric.count(mask, probabilities)
    assert counts.tolist() == [[1, 0.5, 0], [3, 2.5, 2]]
    scores = metric.scores(counts)
    assert scores["ece"] == pytest.approx((0.5 + 0.5) / 4)
    assert scores["mce"] == pytest.approx(0.5)
    assert scores["mean_confidence"] == pytest.approx(3 / 4)


def test_probabilities_that_are_right_as_often_as_they_say_have_no_error():
    probabilities = np.stack([np.full(100, 0.7), np.full(100, 0.3)]).astype(np.float32)
    mask = (np.arange(100) >= 70).astype(np.uint8)
    metric = Calibration(num_classes=2)
    scores = metric.scores(metric.count(mask, probabilities))
    assert scores["ece"] == pytest.approx(0, abs=1e-7)
    assert scores["mce"] == pytest.approx(0, abs=1e-7)


def test_bins_without_pixels_have_no_say():
    scores = Calibration(3, num_classes=2).scores(np.array([[0.0, 0, 0], [10, 6, 5], [30, 27, 28.5]]))
    assert scores["mce"] == pytest.approx(0.1)
    assert scores["ece"] == pytest.approx((1 + 1.5) / 40)


def test_certainty_is_one_if_it_is_right_and_the_error_one_if_it_is_wrong():
    mask = np.array([[0, 1], [1, 0]], np.uint8)
    certain = np.stack([mask == 0, mask == 1]).astype(np.float32)
    metric = Calibration(num_classes=2)
    assert metric.scores(metric.count(mask, certain)) == {"ece": 0, "mce": 0, "mean_confidence": 1}
    assert metric.scores(metric.count(1 - mask, certain)) == {"ece": 1, "mce": 1, "mean_confidence": 1}


def test_sums_that_are_a_little_above_one_and_nothing_at_all_stay_in_the_bins():
    probabilities = np.array([[1.0000001, 0.0], [0.0, 0.0]], np.float32)
    counts = Calibration(num_classes=2).count(np.array([0, 0], np.uint8), probabilities)
    assert counts[:, 0].nonzero()[0].tolist() == [0, 14]


@settings(max_examples=10, deadline=None)
@given(seeds, seeds)
def test_probabilities_in_void_change_nothing(seed, other):
    mask, probabilities = random_pair(seed)
    changed = np.where(mask == 255, random_pair(other)[1], probabilities)
    metric = Calibration(num_classes=4)
    np.testing.assert_array_equal(metric.count(mask, changed), metric.count(mask, probabilities))


@settings(max_examples=10, deadline=None)
@given(seeds, st.permutations(range(4)))
def test_permuting_classes_changes_nothing(seed, order):
    mask, probabilities = random_pair(seed)
    rename = np.full(256, 255, np.uint8)
    rename[list(order)] = range(4)
    metric = Calibration(num_classes=4)
    np.testing.assert_array_equal(
        metric.count(rename[mask], probabilities[list(order)]), metric.count(mask, probabilities)
    )


@settings(max_examples=10, deadline=None)
@given(seeds)
def test_flips_and_transposition_change_nothing(seed):
    mask, probabilities = random_pair(seed)
    metric = Calibration(num_classes=4)
    before = metric.count(mask, probabilities)
    for axes in ((0, 2, 1), (0, 1, 2)):
        moved = metric.count(mask[::-1].transpose(axes[1] - 1, axes[2] - 1), probabilities[:, ::-1].transpose(axes))
        np.testing.assert_allclose(moved, before)


@pytest.mark.parametrize("shape", [(50,), (4, 5, 6)])
def test_any_number_of_axes_is_counted(shape):
    mask, probabilities = random_pair(3, shape=shape)
    metric = Calibration(num_classes=4)
    flat = metric.count(mask.reshape(1, -1), probabilities.reshape(4, 1, -1))
    np.testing.assert_array_equal(metric.count(mask, probabilities), flat)


def test_a_mask_of_only_void_has_no_score():
    metric = Calibration(num_classes=4)
    mask, probabilities = random_pair(0)
    counts = metric.count(np.full_like(mask, 255), probabilities)
    assert not counts.any()
    assert all(np.isnan(value) for value in metric.scores(counts).values())


def test_one_class_is_always_right():
    metric = Calibration(num_classes=1)
    counts = metric.count(np.zeros((3, 4), np.uint8), np.ones((1, 3, 4), np.float32))
    assert metric.scores(counts) == {"ece": 0, "mce": 0, "mean_confidence": 1}


def test_counts_of_images_add_up_and_leading_axes_are_kept():
    metric = Calibration(num_classes=4)
    first, second = random_pair(1), random_pair(2)
    joined = metric.count(*(np.concatenate([a, b], axis=-1) for a, b in zip(first, second, strict=True)))
    np.testing.assert_allclose(metric.count(*first) + metric.count(*second), joined)
    counts = np.stack([metric.count(*random_pair(seed)) for seed in range(6)])
    for name, values in metric.scores(counts.reshape(2, 3, 15, 3)).items():
        np.testing.assert_array_equal(values.ravel(), [metric.scores(one)[name] for one in counts])


def test_errors_are_better_when_they_are_lower():
    assert Calibration.takes_probabilities
    assert Calibration.lower_is_better == {"ece", "mce"}
    assert "in 15 bins of equal width" in Calibration(num_classes=2).protocol


def test_less_than_one_bin_is_refused():
    with pytest.raises(ValueError, match=r"metric.calibration.num_bins is 0, but"):
        Calibration(0, num_classes=2)


def test_shapes_and_classes_that_do_not_fit_are_refused():
    mask, probabilities = random_pair(0, 3)
    with pytest.raises(ValueError, match=r"are \(3, 13, 17\), but the mask asks for \(4, 13, 17\)"):
        Calibration(num_classes=4).count(mask, probabilities)
    mask[0, 0] = 7
    with pytest.raises(ValueError, match="the mask holds class 7"):
        Calibration(num_classes=3).count(mask, probabilities)
