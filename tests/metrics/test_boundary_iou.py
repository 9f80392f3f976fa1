import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_blocks import blocks
from scipy import ndimage

from segwright.metrics.boundary_iou import BoundaryIoU


def by_erosion(mask, predicted, ratio, num_classes):
    """The same by the definition: d erosions of the mask of each class."""
    width = max(1, round(ratio * math.sqrt(sum(size**2 for size in mask.shape))))
    square = np.ones((3,) * mask.ndim)
    void = mask == 255
    counts = []
    for label in range(num_classes):
        rims = []
        for array in (mask, predicted):
            region = (array == label) & ~void
            rims.append(region & ~ndimage.binary_erosion(region | void, square, iterations=width, border_value=0))
        counts.append([(rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()])
    return np.array(counts, np.float64)


pairs = st.builds(blocks, st.integers(0, 2**31), st.integers(1, 5))


def test_a_shifted_square_is_counted_by_hand():
    mask, predicted = np.zeros((6, 6), np.uint8), np.zeros((6, 6), np.uint8)
    mask[1:5, 1:5], predicted[1:5, 2:6] = 1, 1
    counts = BoundaryIoU(num_classes=2).count(mask, predicted)
    # Both rings have 12 pixels and share 6; the background is thin enough to be rim throughout, 20 pixels each.
    assert counts.tolist() == [[16, 24], [6, 18]]
    scores = BoundaryIoU(num_classes=2).scores(counts)
    np.testing.assert_allclose(scores["boundary_iou"], [2 / 3, 1 / 3])
    assert scores["mean_boundary_iou"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("sizes", [(7,), (5, 6), (3, 3, 4)])
def test_counts_are_those_of_erosions_of_each_class(ratio, sizes):
    mask, predicted = blocks(3, 4, sizes)
    counts = BoundaryIoU(ratio, num_classes=4).count(mask, predicted)
    np.testing.assert_array_equal(counts, by_erosion(mask, predicted, ratio, 4))


@settings(max_examples=12, deadline=None)
@given(pairs, st.sampled_from([0.02, 0.06, 0.12]))
def test_counts_are_those_of_erosions_for_any_mask(pair, ratio):
    np.testing.assert_array_equal(
        BoundaryIoU(ratio, num_classes=5).count(*pair), by_erosion(*pair, ratio, num_classes=5)
    )


@pytest.mark.parametrize(("side", "width"), [(10, 1), (100, 3), (160, 5)])  # 0.28, 2.83 and 4.53 pixels
def test_the_rim_is_two_percent_of_the_diagonal_rounded_and_runs_along_the_image_border(side, width):
    mask = np.zeros((side, side), np.uint8)
    counts = BoundaryIoU(num_classes=1).count(mask, mask)
    assert counts[0, 1] == side**2 - (side - 2 * width) ** 2


def test_void_gives_no_rim_to_its_neighbors():
    mask = np.zeros((20, 20), np.uint8)
    mask[8:12, 8:12] = 255
    counts = BoundaryIoU(num_classes=1).count(mask, np.zeros_like(mask))
    assert counts[0].tolist() == [20**2 - 18**2, 20**2 - 18**2]


def test_the_rim_reaches_the_next_class_across_a_ring_of_void():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    mask[12:28, 12:28] = 1
    predicted = np.where(mask == 255, np.uint8(0), mask)
    counts = BoundaryIoU(0.07, num_classes=2).count(mask, predicted)  # 4 pixels, 2 of them void
    assert counts[1].tolist() == [16**2 - 12**2, 16**2 - 12**2]


@settings(max_examples=12, deadline=None)
@given(pairs, st.integers(0, 2**31))
def test_predictions_in_void_change_nothing(pair, seed):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(5, size=mask.shape).astype(np.uint8)
    metric = BoundaryIoU(num_classes=5)
    changed = np.where(mask == 255, noise, predicted)
    np.testing.assert_array_equal(metric.count(mask, changed), metric.count(mask, predicted))


@settings(max_examples=12, deadline=None)
@given(pairs, st.permutations(range(5)))
def test_permuting_classes_permutes_counts(pair, order):
    mask, predicted = pair
    rename = np.arange(256, dtype=np.uint8)
    rename[:5] = order
    metric = BoundaryIoU(num_classes=5)
    np.testing.assert_array_equal(metric.count(rename[mask], rename[predicted])[list(order)], metric.count(*pair))


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_flips_and_transposition_change_nothing(pair):
    metric = BoundaryIoU(0.06, num_classes=5)
    expected = metric.count(*pair)
    for turn in (np.flipud, np.fliplr, np.transpose):
        np.testing.assert_array_equal(metric.count(*map(turn, pair)), expected)


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_a_perfect_prediction_scores_one_for_each_class_that_is_there(pair):
    mask, _ = pair
    metric = BoundaryIoU(num_classes=5)
    scores = metric.scores(metric.count(mask, np.where(mask == 255, 0, mask).astype(np.uint8)))
    present = np.isin(np.arange(5), mask)
    np.testing.assert_array_equal(scores["boundary_iou"], np.where(present, 1.0, np.nan))


def test_images_are_summed_before_the_ratio():
    metric = BoundaryIoU(num_classes=2)
    counts = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 3]]], np.float64)
    np.testing.assert_array_equal(metric.scores(counts.sum(axis=0))["boundary_iou"], [np.nan, 1 / 4])


def test_leading_axes_give_the_same_scores_as_single_sets():
    metric = BoundaryIoU(num_classes=4)
    counts = np.stack([metric.count(*blocks(seed, 4)) for seed in range(6)])
    together = metric.scores(counts.reshape(2, 3, 4, 2))
    for name, width in (("boundary_iou", (4,)), ("mean_boundary_iou", ())):
        assert together[name].shape == (2, 3, *width)
        np.testing.assert_array_equal(
            together[name].reshape(6, *width), np.stack([metric.scores(single)[name] for single in counts])
        )


def test_a_mask_of_only_void_has_no_score():
    void = np.full((4, 4), 255, np.uint8)
    scores = BoundaryIoU(num_classes=3).scores(BoundaryIoU(num_classes=3).count(void, np.zeros_like(void)))
    assert np.isnan(scores["boundary_iou"]).all()
    assert np.isnan(scores["mean_boundary_iou"])


def test_another_ignore_label_is_left_out():
    mask, predicted = blocks(0, 3)
    expected = BoundaryIoU(num_classes=4).count(mask, predicted)
    mask = np.where(mask == 255, np.uint8(3), mask)
    np.testing.assert_array_equal(BoundaryIoU(num_classes=4, ignore_label=3).count(mask, predicted), expected)


def test_an_image_of_one_pixel_is_rim():
    pixel = np.zeros((1, 1), np.uint8)
    assert BoundaryIoU(num_classes=1).count(pixel, pixel).tolist() == [[1, 1]]


def test_classes_that_do_not_exist_and_shapes_that_differ_are_refused():
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="the prediction holds class 3, but there are 3 classes"):
        BoundaryIoU(num_classes=3).count(mask, mask + np.uint8(3))
    with pytest.raises(ValueError, match=r"the mask is \(4, 4\), but the prediction is \(2, 4\)"):
        BoundaryIoU(num_classes=3).count(mask, mask[:2])


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5, math.nan])
def test_a_width_that_is_no_share_of_the_diagonal_is_refused(ratio):
    with pytest.raises(ValueError, match=r"metric\.boundary_iou\.dilation_ratio is .*; try 0\.02"):
        BoundaryIoU(ratio, num_classes=2)


def test_the_protocol_names_the_width():
    assert "0.5 % of the image diagonal" in BoundaryIoU(0.005, num_classes=2).protocol
