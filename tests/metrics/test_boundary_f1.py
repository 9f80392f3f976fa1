import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_blocks import blocks
from scipy import ndimage
from scipy.spatial.distance import cdist

from segwright.metrics.boundary_f1 import BoundaryF1


def edge(*columns: int, size: tuple[int, int] = (10, 10)) -> np.ndarray:
    """Class 0 on the left and class 1 on the right, from the given column on in each equal part of the rows."""
    starts = np.repeat(columns, size[0] // len(columns))
    return (np.arange(size[1]) >= starts[:, None]).astype(np.uint8)


def within(pixels: float, size: tuple[int, ...] = (10, 10)) -> float:
    """The tolerance that means so many pixels in an image of that size."""
    return pixels / math.hypot(*size)


def by_all_pairs(mask, predicted, tolerance, num_classes):
    """The same by the definition: contours by erosion, and the distance of every pair of their pixels."""
    void = mask == 255
    theta = tolerance * math.sqrt(sum(size**2 for size in mask.shape))
    counts = np.zeros((num_classes, 2))
    for label in range(num_classes):
        regions = [(array == label) & ~void for array in (mask, predicted)]
        counts[label, 1] = any(region.any() for region in regions)
        true, found = (
            np.argwhere(region & ~ndimage.binary_erosion(region | void, border_value=1)) for region in regions
        )
        if not all(region.any() for region in regions):
            continue
        if len(true) == 0 or len(found) == 0:
            counts[label, 0] = len(true) == len(found)
            continue
        near = cdist(found, true) <= theta
        precision, recall = near.any(axis=1).mean(), near.any(axis=0).mean()
        counts[label, 0] = 2 * precision * recall / (precision + recall) if precision + recall else 0
    return counts


pairs = st.builds(blocks, st.integers(0, 2**31), st.integers(1, 4))


def test_a_half_shifted_edge_is_counted_by_hand():
    # Of the 12 predicted contour pixels of class 1, 5 lie on column 5 and one beside it; of the 10 of the mask, 5 are
    # met and one more is beside the corner.
    mask, predicted = edge(5), edge(5, 8)
    counts = BoundaryF1(within(1), num_classes=2).count(mask, predicted)
    precision, recall = 6 / 12, 6 / 10
    assert counts[1].tolist() == [pytest.approx(2 * precision * recall / (precision + recall)), 1]


@pytest.mark.parametrize("tolerance", [0.0075, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("sizes", [(7,), (4, 5), (2, 3, 3)])
def test_counts_are_those_of_all_pairs_of_pixels(tolerance, sizes):
    mask, predicted = blocks(1, 3, sizes)
    counts = BoundaryF1(tolerance, num_classes=3).count(mask, predicted)
    np.testing.assert_allclose(counts, by_all_pairs(mask, predicted, tolerance, 3), rtol=1e-12)


@settings(max_examples=12, deadline=None)
@given(pairs, st.sampled_from([0.02, 0.06, 0.12]))
def test_counts_are_those_of_all_pairs_for_any_mask(pair, tolerance):
    counts = BoundaryF1(tolerance, num_classes=4).count(*pair)
    np.testing.assert_allclose(counts, by_all_pairs(*pair, tolerance, num_classes=4), rtol=1e-12)


@pytest.mark.parametrize(("shift", "expected"), [(6, 1.0), (7, 0.0)])
def test_contours_match_up_to_three_quarters_of_a_percent_of_the_diagonal(shift, expected):
    size = (480, 640)  # diagonal 800, so exactly 6 pixels
    counts = BoundaryF1(num_classes=2).count(edge(300, size=size), edge(300 + shift, size=size))
    assert counts.tolist() == [[expected, 1]] * 2


def test_a_class_in_only_one_of_mask_and_prediction_scores_zero():
    square, nothing = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    square[3:6, 3:6] = 1
    metric = BoundaryF1(num_classes=3)
    for pair in ((square, nothing), (nothing, square)):
        scores = metric.scores(metric.count(*pair))
        # The background is in both, but has a contour in only one.
        np.testing.assert_array_equal(scores["boundary_f1"], [0, 0, np.nan])
        assert scores["mean_boundary_f1"] == 0


def test_a_class_that_fills_both_mask_and_prediction_has_no_contour_to_miss():
    full = np.ones((10, 10), np.uint8)
    metric = BoundaryF1(num_classes=2)
    np.testing.assert_array_equal(metric.scores(metric.count(full, full))["boundary_f1"], [np.nan, 1])


def test_one_class_that_fills_the_mask_and_another_that_fills_the_prediction_score_zero():
    zeros, ones = np.zeros((10, 10), np.uint8), np.ones((10, 10), np.uint8)
    assert BoundaryF1(num_classes=2).count(zeros, ones).tolist() == [[0, 1], [0, 1]]


def test_the_image_border_is_no_contour():
    mask, predicted = edge(2), edge(7)
    assert BoundaryF1(within(1), num_classes=2).count(mask, predicted)[:, 0].tolist() == [0, 0]


def test_void_makes_no_contour():
    mask = edge(5)
    mask[:, 4:6] = 255
    assert BoundaryF1(num_classes=2).count(mask, edge(5)).tolist() == [[1, 1], [1, 1]]  # no contour in either
    assert BoundaryF1(num_classes=2).count(mask, edge(8)).tolist() == [[0, 1], [0, 1]]  # one that is not there


@settings(max_examples=12, deadline=None)
@given(pairs, st.integers(0, 2**31))
def test_predictions_in_void_change_nothing(pair, seed):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(4, size=mask.shape).astype(np.uint8)
    metric = BoundaryF1(0.05, num_classes=4)
    changed = np.where(mask == 255, noise, predicted)
    np.testing.assert_array_equal(metric.count(mask, changed), metric.count(mask, predicted))


@settings(max_examples=12, deadline=None)
@given(pairs, st.permutations(range(4)))
def test_permuting_classes_permutes_counts(pair, order):
    mask, predicted = pair
    rename = np.arange(256, dtype=np.uint8)
    rename[:4] = order
    metric = BoundaryF1(0.05, num_classes=4)
    np.testing.assert_array_equal(metric.count(rename[mask], rename[predicted])[list(order)], metric.count(*pair))


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_flips_transposition_and_exchange_change_nothing(pair):
    mask, predicted = pair
    predicted = np.where(mask == 255, mask, predicted)
    metric = BoundaryF1(0.05, num_classes=4)
    expected = metric.count(*pair)
    for turn in (np.flipud, np.fliplr, np.transpose):
        np.testing.assert_array_equal(metric.count(*map(turn, pair)), expected)
    truth = np.where(mask == 255, 0, mask).astype(np.uint8)
    np.testing.assert_allclose(metric.count(predicted, truth), expected, rtol=1e-12)  # P and R change places


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_a_perfect_prediction_scores_one_for_each_class_that_is_there(pair):
    mask, _ = pair
    metric = BoundaryF1(num_classes=4)
    scores = metric.scores(metric.count(mask, np.where(mask == 255, 0, mask).astype(np.uint8)))
    present = np.isin(np.arange(4), mask)
    np.testing.assert_array_equal(scores["boundary_f1"], np.where(present, 1.0, np.nan))


def test_the_score_of_a_set_is_the_mean_over_the_images_that_hold_the_class():
    metric = BoundaryF1(within(1), num_classes=3)
    images = [(edge(5), edge(5)), (edge(5), edge(9)), (np.full((10, 10), 2, np.uint8),) * 2]
    scores = metric.scores(np.sum([metric.count(*pair) for pair in images], axis=0))
    np.testing.assert_allclose(scores["boundary_f1"], [1 / 2, 1 / 2, 1])
    assert scores["mean_boundary_f1"] == pytest.approx(2 / 3)


def test_leading_axes_give_the_same_scores_as_single_sets():
    metric = BoundaryF1(0.05, num_classes=4)
    counts = np.stack([metric.count(*blocks(seed, 4)) for seed in range(6)])
    together = metric.scores(counts.reshape(2, 3, 4, 2))
    for name, width in (("boundary_f1", (4,)), ("mean_boundary_f1", ())):
        assert together[name].shape == (2, 3, *width)
        np.testing.assert_array_equal(
            together[name].reshape(6, *width), np.stack([metric.scores(single)[name] for single in counts])
        )


def test_a_mask_of_only_void_has_no_score():
    void = np.full((4, 4), 255, np.uint8)
    scores = BoundaryF1(num_classes=3).scores(BoundaryF1(num_classes=3).count(void, np.zeros_like(void)))
    assert np.isnan(scores["boundary_f1"]).all()
    assert np.isnan(scores["mean_boundary_f1"])


def test_another_ignore_label_is_left_out():
    mask, predicted = blocks(0, 3)
    expected = BoundaryF1(num_classes=4).count(mask, predicted)
    mask = np.where(mask == 255, np.uint8(3), mask)
    np.testing.assert_array_equal(BoundaryF1(num_classes=4, ignore_label=3).count(mask, predicted), expected)


def test_classes_that_do_not_exist_are_refused():
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="the mask holds class 9, but there are 3 classes"):
        BoundaryF1(num_classes=3).count(mask + np.uint8(9), mask)


@pytest.mark.parametrize("tolerance", [0.0, -0.1, 1.5, math.nan])
def test_a_tolerance_that_is_no_share_of_the_diagonal_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"metric\.boundary_f1\.tolerance is .*; try 0\.0075"):
        BoundaryF1(tolerance, num_classes=2)


def test_the_protocol_names_the_tolerance():
    assert "0.75 % of the image diagonal" in BoundaryF1(num_classes=2).protocol
