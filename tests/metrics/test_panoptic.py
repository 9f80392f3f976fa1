import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label
from torchmetrics.functional.detection import panoptic_quality

from segwright.layers.components import connected_components
from segwright.metrics.confusion import confusion_matrix, intersection_over_union
from segwright.metrics.panoptic import Panoptic, count_overlaps, count_segments


def random_pair(seed: int, num_classes: int = 4, *, shape=(13, 18), void: float = 0.1):
    """Blobs of a few pixels with void blobs, and the same with some pixels of another class."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(num_classes, size=[-(-side // 4) for side in shape])
    mask = np.kron(coarse, np.ones((4,) * len(shape)))[tuple(slice(side) for side in shape)].astype(np.uint8)
    other = generator.integers(num_classes, size=shape)
    predicted = np.where(generator.random(shape) < 0.85, np.roll(mask, 1, axis=0), other).astype(np.uint8)
    mask[generator.random(shape) < void] = 255
    return mask, predicted


pairs = st.builds(random_pair, st.integers(0, 2**31))


def segments_one_by_one(mask, things, connectivity):
    """Class and pixels of each segment, by another library."""
    found = []
    for index in np.unique(mask[mask != 255]):
        region = mask == index
        parts = label(region, connectivity=mask.ndim if connectivity == "full" else 1) if index in things else region
        found += [(index, parts == part) for part in range(1, int(parts.max()) + 1)]
    return found


def by_definition(mask, predicted, num_classes, things, connectivity="full"):
    """IoU, TP, FP and FN of each class, segment by segment as the paper describes them."""
    ours = segments_one_by_one(mask, things, connectivity)
    theirs = segments_one_by_one(predicted, things, connectivity)
    void = mask == 255
    counts = np.zeros((num_classes, 4))
    matched = set()
    for index, pixels in ours:
        hit = False
        for number, (other, found) in enumerate(theirs):
            iou = (pixels & found).sum() / (pixels | found & ~void).sum()
            if index == other and iou > 0.5:
                counts[index] += (iou, 1, 0, 0)
                matched.add(number)
                hit = True
        counts[index, 3] += not hit
    for number, (index, found) in enumerate(theirs):
        counts[index, 2] += number not in matched and (found & void).mean() <= found.mean() / 2
    return counts


def with_torchmetrics(mask, predicted, num_classes, things):
    """PQ, SQ and RQ of each class; void is a class that is not known there, instances come from scikit-image."""
    stuff = [index for index in range(num_classes) if index not in things]
    maps = []
    for classes in (predicted, mask):
        instances = label(classes.astype(int), connectivity=classes.ndim, background=-1)
        maps.append(torch.from_numpy(np.stack([classes.astype(int), instances], axis=-1))[None])
    oracle = panoptic_quality(*maps, things=things, stuffs=stuff, return_per_class=True, return_sq_and_rq=True)
    return oracle.numpy()[np.argsort([*sorted(things), *stuff])]


@settings(max_examples=10, deadline=None)
@given(pairs, st.sampled_from([(), (0,), (1, 2, 3), (0, 1, 2, 3)]))
def test_scores_are_those_of_torchmetrics(pair, things):
    metric = Panoptic(things, num_classes=4)
    scores = metric.scores(metric.count(*pair))
    ours = np.stack([scores["pq"], scores["sq"], scores["rq"]], axis=-1)
    np.testing.assert_allclose(np.nan_to_num(ours), with_torchmetrics(*pair, 4, things), rtol=1e-6)


@settings(max_examples=10, deadline=None)
@given(pairs, st.sampled_from(["full", "faces"]))
def test_counts_are_those_of_the_definition(pair, connectivity):
    counts = Panoptic((1, 3), connectivity, num_classes=4).count(*pair)
    np.testing.assert_allclose(counts, by_definition(*pair, 4, (1, 3), connectivity), rtol=1e-12)


@pytest.mark.parametrize("shape", [(40,), (9, 10, 11)])
def test_any_number_of_axes_is_counted(shape):
    pair = random_pair(1, 3, shape=shape)
    counts = Panoptic(num_classes=3).count(*pair)
    np.testing.assert_allclose(counts, by_definition(*pair, 3, (1, 2)), rtol=1e-12)


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_a_perfect_prediction_has_quality_one(pair):
    mask, _ = pair
    mask[mask == 255] = 0
    metric = Panoptic(num_classes=4)
    scores = metric.scores(metric.count(mask, mask.copy()))
    for name, values in scores.items():
        assert (values[~np.isnan(values)] == 1).all(), name


def test_one_found_and_one_missed_segment_have_recognition_quality_two_thirds():
    mask = np.zeros((8, 8), np.uint8)
    mask[1:4, 1:5] = 1
    mask[6, 2:6] = 1
    predicted = np.zeros_like(mask)
    predicted[1:4, 1:4] = 1  # 9 of 12 pixels of the first
    metric = Panoptic(num_classes=2)
    counts = metric.count(mask, predicted)
    assert counts[1].tolist() == [0.75, 1, 0, 1]
    scores = metric.scores(counts)
    assert scores["rq"][1] == pytest.approx(2 / 3)
    assert scores["sq"][1] == pytest.approx(0.75)
    assert scores["pq"][1] == pytest.approx(2 / 3 * 0.75)


def test_the_mean_quality_is_not_the_product_of_the_means():
    metric = Panoptic(num_classes=3)
    counts = np.array([[0.0, 0, 0, 0], [0.6, 1, 0, 0], [0.9, 1, 2, 2]])
    scores = metric.scores(counts)
    assert scores["mean_pq"] == pytest.approx((0.6 + 0.3) / 2)
    assert scores["mean_sq"] * scores["mean_rq"] == pytest.approx(0.75 * (1 + 1 / 3) / 2)
    assert abs(scores["mean_pq"] - scores["mean_sq"] * scores["mean_rq"]) > 0.04


def test_classes_without_segments_are_left_out_of_the_means_and_missed_ones_count_zero():
    scores = Panoptic(num_classes=3).scores(np.array([[0.0, 0, 0, 0], [0.8, 1, 0, 0], [0.0, 0, 0, 3]]))
    np.testing.assert_array_equal(scores["sq"], [np.nan, 0.8, 0])
    assert scores["mean_pq"] == pytest.approx(0.4)
    assert scores["mean_sq"] == pytest.approx(0.4)
    assert scores["mean_rq"] == pytest.approx(0.5)


def test_an_overlap_of_exactly_one_half_is_no_match():
    mask, predicted = np.zeros((2, 6), np.uint8), np.zeros((2, 6), np.uint8)
    mask[0, :2] = predicted[0, 0] = 1
    assert Panoptic(num_classes=2).count(mask, predicted)[1].tolist() == [0, 0, 1, 1]


def test_void_is_in_no_union():
    mask = np.array([[1, 1, 1, 255, 255, 0]], np.uint8)
    predicted = np.array([[1, 1, 1, 1, 1, 0]], np.uint8)
    assert Panoptic(num_classes=2).count(mask, predicted)[1].tolist() == [1, 1, 0, 0]


def test_a_prediction_that_is_more_than_half_void_is_no_false_positive():
    metric = Panoptic(num_classes=2)
    mask = np.array([[255, 255, 0, 0, 0, 0]], np.uint8)
    assert metric.count(mask, np.array([[1, 1, 1, 0, 0, 0]], np.uint8))[1, 2] == 0
    assert metric.count(mask, np.array([[1, 1, 1, 1, 0, 0]], np.uint8))[1, 2] == 1  # exactly half


def test_a_match_counts_even_if_it_is_mostly_void():
    mask = np.array([[255, 255, 255, 1, 1, 0]], np.uint8)
    predicted = np.array([[1, 1, 1, 1, 1, 0]], np.uint8)
    assert Panoptic(num_classes=2).count(mask, predicted)[1].tolist() == [1, 1, 0, 0]


@settings(max_examples=10, deadline=None)
@given(pairs, st.integers(0, 2**31))
def test_predictions_in_void_change_neither_matches_nor_misses_of_stuff(pair, seed):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(4, size=mask.shape).astype(np.uint8)
    metric = Panoptic((), num_classes=4)
    changed = metric.count(mask, np.where(mask == 255, noise, predicted))
    np.testing.assert_array_equal(changed[:, [0, 1, 3]], metric.count(mask, predicted)[:, [0, 1, 3]])


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_stuff_that_matches_has_the_iou_of_the_confusion_matrix(pair):
    mask, predicted = pair
    metric = Panoptic((), num_classes=4)
    counts = metric.count(mask, predicted)
    iou = intersection_over_union(confusion_matrix(mask, predicted, 4))
    np.testing.assert_allclose(counts[:, 0], np.where(iou > 0.5, iou, 0))


def test_pixels_that_touch_at_a_corner_are_one_instance_unless_faces_are_asked_for():
    mask = np.eye(3, dtype=np.uint8)
    assert Panoptic(num_classes=2).count(mask, mask)[1, 1] == 1
    assert Panoptic(connectivity="faces", num_classes=2).count(mask, mask)[1, 1] == 3


@settings(max_examples=10, deadline=None)
@given(pairs, st.permutations(range(4)))
def test_permuting_classes_permutes_counts(pair, order):
    rename = np.full(256, 255, np.uint8)
    rename[:4] = order
    before = Panoptic((1, 3), num_classes=4).count(*pair)
    after = Panoptic((order[1], order[3]), num_classes=4).count(*(rename[classes] for classes in pair))
    np.testing.assert_allclose(after[list(order)], before, rtol=1e-12)


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_flips_and_transposition_change_nothing(pair):
    metric = Panoptic(num_classes=4)
    before = metric.count(*pair)
    for move in (np.flipud, np.fliplr, np.transpose):
        np.testing.assert_allclose(metric.count(*(move(classes) for classes in pair)), before, rtol=1e-12)


def test_a_mask_of_only_void_has_no_segments_and_no_score():
    metric = Panoptic(num_classes=3)
    void = np.full((4, 5), 255, np.uint8)
    counts = metric.count(void, np.ones_like(void))
    assert not counts.any()
    assert all(np.isnan(values).all() for values in metric.scores(counts).values())


def test_one_class_is_one_segment():
    mask = np.zeros((4, 5), np.uint8)
    assert Panoptic(num_classes=1).count(mask, mask).tolist() == [[1, 1, 0, 0]]


def test_given_instances_that_touch_are_told_apart():
    instances = np.array([[1, 1, 1, 2, 2, 2]])
    found = np.array([[1, 1, 1, 1, 2, 3]])
    counts = count_segments(
        instances, found, classes=np.array([1, 1]), predicted_classes=np.array([1, 1, 0]), num_classes=2
    )
    assert counts.tolist() == [[0, 0, 1, 0], [0.75, 1, 1, 1]]


def test_unlabelled_predictions_are_misses_and_segments_without_pixels_do_not_count():
    counts = count_segments(
        np.array([[1, 1, 0]]),
        np.array([[0, 0, 0]]),
        classes=np.array([0, 0]),
        predicted_classes=np.array([0]),
        num_classes=1,
    )
    assert counts.tolist() == [[0, 0, 0, 1]]


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_semantic_counts_are_those_of_the_given_components(pair):
    mask, predicted = pair
    ids, classes = [], []
    for labels, is_void in ((mask, mask == 255), (predicted, np.zeros(mask.shape, bool))):
        parts = label(labels.astype(int), connectivity=2, background=-1) * ~is_void
        found, parts = np.unique(parts, return_inverse=True)
        has_void = found[0] == 0
        parts = parts.reshape(labels.shape) + (not has_void)
        ids.append(parts)
        classes.append(np.array([labels[parts == number][0] for number in range(1, parts.max() + 1)], int))
    given_counts = count_segments(*ids, classes=classes[0], predicted_classes=classes[1], num_classes=4)
    ours = Panoptic((0, 1, 2, 3), num_classes=4).count(mask, predicted)
    np.testing.assert_allclose(given_counts, ours, rtol=1e-12)


def test_leading_axes_give_the_same_scores_as_single_counts():
    metric = Panoptic(num_classes=4)
    counts = np.stack([metric.count(*random_pair(seed)) for seed in range(6)])
    together = metric.scores(counts.reshape(2, 3, 4, 4))
    for name, values in together.items():
        singles = np.stack([metric.scores(one)[name] for one in counts])
        np.testing.assert_array_equal(values.reshape(singles.shape), singles)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_overlaps_are_counted_as_a_full_matrix_would(seed):
    generator = np.random.default_rng(seed)
    first, second = generator.integers(5, size=(7, 8)), generator.integers(9, size=(7, 8))
    rows, columns, pixels = count_overlaps(first, second)
    matrix = np.zeros((5, 9), int)
    matrix[rows, columns] = pixels
    expected = np.zeros((5, 9), int)
    np.add.at(expected, (first, second), 1)
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize("connectivity", ["full", "faces"])
@pytest.mark.parametrize("shape", [(30,), (12, 13), (6, 7, 8)])
def test_components_are_those_of_another_library(shape, connectivity):
    region = np.random.default_rng(0).random(shape) < 0.4
    ours = connected_components(region, connectivity)
    theirs = label(region, connectivity=len(shape) if connectivity == "full" else 1)
    assert ours.max() == theirs.max()
    assert len(np.unique(np.stack([ours, theirs]).reshape(2, -1), axis=1).T) == theirs.max() + 1


def test_things_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"metric.panoptic.things names class 3, but there are 3 classes, 0 to 2"):
        Panoptic((1, 3), num_classes=3)


def test_shapes_and_classes_that_do_not_fit_are_refused():
    metric, mask = Panoptic(num_classes=2), np.zeros((3, 4), np.uint8)
    with pytest.raises(ValueError, match=r"the mask is \(3, 4\), but the prediction is \(1, 4\)"):
        metric.count(mask, mask[:1])
    with pytest.raises(ValueError, match="the prediction holds class 2"):
        metric.count(mask, mask + np.uint8(2))


def test_given_segments_that_do_not_fit_are_refused():
    ids, names = np.array([[0, 1]]), {"classes": np.array([0]), "predicted_classes": np.array([0]), "num_classes": 1}
    with pytest.raises(ValueError, match="the prediction holds segments 0 to 2, but 1 segments have a class"):
        count_segments(ids, 2 * ids, **names)
    with pytest.raises(ValueError, match="the mask has a segment of class 1, but there are 1 classes"):
        count_segments(ids, ids, **names | {"classes": np.array([1])})
    with pytest.raises(ValueError, match=r"the mask is \(1, 2\), but the prediction is \(2, 1\)"):
        count_segments(ids, ids.T, **names)


def test_the_protocol_says_which_classes_have_instances():
    assert "classes 1, 2 are segments (pixels that touch are connected)" in Panoptic(num_classes=3).protocol
    assert "every class is one segment an image;" in Panoptic((), num_classes=3).protocol
