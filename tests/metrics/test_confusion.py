import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
    MulticlassPrecision,
)

from segwright.metrics import confusion as metrics


def random_pair(seed: int, num_classes: int, *, void: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    mask = generator.integers(num_classes, size=(23, 31)).astype(np.uint8)
    predicted = np.where(generator.random(mask.shape) < 0.6, mask, generator.integers(num_classes, size=mask.shape))
    mask[generator.random(mask.shape) < void] = 255
    return mask, predicted.astype(np.uint8)


pairs = st.builds(random_pair, st.integers(0, 2**31), st.integers(1, 20))


def test_a_worked_example_is_counted_by_hand():
    mask = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1], [2, 0, 0, 1]], np.uint8)
    matrix = metrics.confusion_matrix(mask, predicted, 4)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(metrics.intersection_over_union(matrix), [1 / 3, 2 / 3, 1 / 2, np.nan])
    np.testing.assert_allclose(metrics.dice(matrix), [1 / 2, 4 / 5, 2 / 3, np.nan])
    np.testing.assert_allclose(metrics.precision(matrix), [1 / 2, 2 / 3, 1, np.nan])
    np.testing.assert_allclose(metrics.recall(matrix), [1 / 2, 1, 1 / 2, np.nan])
    assert metrics.pixel_accuracy(matrix) == pytest.approx(4 / 6)
    assert metrics.mean_accuracy(matrix) == pytest.approx(2 / 3)
    assert metrics.mean_iou(matrix) == pytest.approx(1 / 2)
    assert metrics.mean_dice(matrix) == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx((2 * 1 / 3 + 2 * 2 / 3 + 2 * 1 / 2) / 6)


@pytest.mark.parametrize("num_classes", [2, 5, 150, 255])
def test_counts_and_scores_agree_with_torchmetrics(num_classes):
    mask, predicted = random_pair(num_classes, num_classes)
    if num_classes > 2:
        mask[mask == 1], predicted[predicted == 1] = 0, 0  # one class is absent
    matrix = metrics.confusion_matrix(mask, predicted, num_classes)
    # torchmetrics 1.9 multiplies labels in their own type, so bytes overflow there.
    tensors = torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(mask.astype(np.int64))
    settings = {"num_classes": num_classes, "ignore_index": 255}
    oracle = MulticlassConfusionMatrix(**settings)(*tensors)
    assert np.array_equal(matrix, oracle.numpy())
    per_class = MulticlassJaccardIndex(average="none", **settings)(*tensors).numpy()
    np.testing.assert_allclose(np.nan_to_num(metrics.intersection_over_union(matrix)), per_class, atol=1e-6)
    assert metrics.mean_iou(matrix) == pytest.approx(
        MulticlassJaccardIndex(average="macro", **settings)(*tensors).item(), abs=1e-6
    )
    assert metrics.pixel_accuracy(matrix) == pytest.approx(
        MulticlassAccuracy(average="micro", **settings)(*tensors).item(), abs=1e-6
    )
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(
        MulticlassJaccardIndex(average="weighted", **settings)(*tensors).item(), abs=1e-6
    )
    precision = MulticlassPrecision(average="none", **settings)(*tensors).numpy()
    np.testing.assert_allclose(np.nan_to_num(metrics.precision(matrix)), precision, atol=1e-6)


@settings(max_examples=25)
@given(pairs)
def test_scores_are_those_of_pixel_sets(pair):
    mask, predicted = pair
    matrix = metrics.confusion_matrix(mask, predicted, 20)
    valid = mask != 255
    for index in range(20):
        masked, chosen = (mask == index) & valid, (predicted == index) & valid
        union = (masked | chosen).sum()
        expected = (masked & chosen).sum() / union if union else np.nan
        np.testing.assert_allclose(metrics.intersection_over_union(matrix)[index], expected)


@given(pairs)
def test_dice_is_two_iou_over_one_plus_iou(pair):
    matrix = metrics.confusion_matrix(*pair, 20)
    iou = metrics.intersection_over_union(matrix)
    np.testing.assert_allclose(metrics.dice(matrix), 2 * iou / (1 + iou), rtol=1e-12)


@given(pairs, st.permutations(range(20)))
def test_permuting_classes_permutes_scores(pair, order):
    mask, predicted = pair
    rename = np.arange(256, dtype=np.uint8)
    rename[:20] = order
    before = metrics.intersection_over_union(metrics.confusion_matrix(mask, predicted, 20))
    after = metrics.intersection_over_union(metrics.confusion_matrix(rename[mask], rename[predicted], 20))
    np.testing.assert_array_equal(after[list(order)], before)


@given(pairs, st.integers(0, 2**31))
def test_predictions_in_void_change_nothing(pair, seed):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(20, size=mask.shape).astype(np.uint8)
    changed = np.where(mask == 255, noise, predicted)
    assert np.array_equal(metrics.confusion_matrix(mask, changed, 20), metrics.confusion_matrix(mask, predicted, 20))


@given(pairs)
def test_a_perfect_prediction_scores_one_for_each_class_that_is_there(pair):
    mask, _ = pair
    matrix = metrics.confusion_matrix(mask, np.where(mask == 255, 0, mask).astype(np.uint8), 20)
    for score in (metrics.intersection_over_union, metrics.dice, metrics.precision, metrics.recall):
        values = score(matrix)
        assert np.all(values[~np.isnan(values)] == 1)


def test_leading_axes_give_the_same_scores_as_single_matrices():
    matrices = np.stack([metrics.confusion_matrix(*random_pair(seed, 4), 4) for seed in range(6)])
    for score in (
        metrics.intersection_over_union,
        metrics.mean_iou,
        metrics.mean_dice,
        metrics.pixel_accuracy,
        metrics.frequency_weighted_iou,
    ):
        together = score(matrices.reshape(2, 3, 4, 4)).reshape(6, -1)
        np.testing.assert_array_equal(together, np.stack([score(matrix) for matrix in matrices]).reshape(6, -1))


def test_volumes_are_counted_as_images_are():
    mask, predicted = random_pair(0, 3)
    volume = metrics.confusion_matrix(np.stack([mask, mask]), np.stack([predicted, predicted]), 3)
    assert np.array_equal(volume, 2 * metrics.confusion_matrix(mask, predicted, 3))


def test_a_mask_of_only_void_has_no_score():
    void = np.full((4, 4), 255, np.uint8)
    matrix = metrics.confusion_matrix(void, np.zeros_like(void), 3)
    assert matrix.sum() == 0
    assert np.isnan(metrics.mean_iou(matrix))
    assert np.isnan(metrics.pixel_accuracy(matrix))
    assert np.isnan(metrics.frequency_weighted_iou(matrix))


def test_another_ignore_label_is_left_out():
    mask = np.array([[0, 1, 7]], np.uint8)
    assert metrics.confusion_matrix(mask, np.array([[0, 1, 1]], np.uint8), 2, ignore_label=7).sum() == 2


@pytest.mark.parametrize("wrong", [3, 200, 255])
def test_predictions_of_a_class_that_does_not_exist_are_refused(wrong):
    mask, predicted = random_pair(0, 3)
    predicted[5, 5] = wrong
    with pytest.raises(ValueError, match=f"the prediction holds class {wrong}, but there are 3 classes"):
        metrics.confusion_matrix(mask, predicted, 3)


def test_masks_with_a_class_that_does_not_exist_are_refused():
    mask, predicted = random_pair(0, 3)
    mask[0, 0] = 9
    with pytest.raises(ValueError, match="the mask holds class 9"):
        metrics.confusion_matrix(mask, predicted, 3)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"the mask is \(1, 4\), but the prediction is \(3, 4\)"):
        metrics.confusion_matrix(np.zeros((1, 4), np.uint8), np.zeros((3, 4), np.uint8), 2)


def test_more_classes_than_a_byte_holds_are_refused():
    with pytest.raises(ValueError, match="num_classes is 256"):
        metrics.confusion_matrix(np.zeros((1, 4), np.uint8), np.zeros((1, 4), np.uint8), 256)


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_weights_by_frequency_do_not_matter_if_classes_are_balanced(seed):
    mask = np.repeat(np.arange(5), 30).astype(np.uint8)
    predicted = np.random.default_rng(seed).permutation(mask)
    matrix = metrics.confusion_matrix(mask, predicted, 5)
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(float(metrics.mean_iou(matrix)), rel=1e-12)


def test_classes_that_only_predictions_hold_have_no_weight():
    matrix = metrics.confusion_matrix(np.array([0, 0, 0, 0], np.uint8), np.array([0, 0, 0, 1], np.uint8), 3)
    assert metrics.frequency_weighted_iou(matrix) == pytest.approx(3 / 4)
    assert metrics.mean_iou(matrix) == pytest.approx(3 / 8)


@pytest.mark.parametrize("move", [np.transpose, np.flipud, lambda classes: classes[::2, 1::3]])
def test_views_are_counted_as_copies_are(move):
    mask, predicted = (move(classes) for classes in random_pair(3, 4))
    expected = np.zeros((256, 4), int)
    np.add.at(expected, (mask, predicted), 1)
    assert metrics.confusion_matrix(mask, predicted, 4).tolist() == expected[:4].tolist()


def test_masks_that_cannot_be_written_to_are_counted():
    mask, predicted = random_pair(3, 4)
    expected = metrics.confusion_matrix(mask, predicted, 4)
    mask.setflags(write=False)
    predicted.setflags(write=False)
    assert np.array_equal(metrics.confusion_matrix(mask, predicted, 4), expected)


def test_the_metric_gives_all_scores_of_the_matrix():
    metric = metrics.Confusion(num_classes=20)
    counts = metric.count(*random_pair(0, 20))
    assert counts.dtype == np.int64
    scores = metric.scores(counts)
    overall = {
        "miou": metrics.mean_iou,
        "mean_dice": metrics.mean_dice,
        "pixel_accuracy": metrics.pixel_accuracy,
        "mean_accuracy": metrics.mean_accuracy,
        "frequency_weighted_iou": metrics.frequency_weighted_iou,
    }
    per_class = {
        "iou": metrics.intersection_over_union,
        "dice": metrics.dice,
        "precision": metrics.precision,
        "recall": metrics.recall,
    }
    assert set(scores) == set(overall) | set(per_class)
    for name, score in (overall | per_class).items():
        np.testing.assert_array_equal(scores[name], score(counts))
        assert scores[name].shape == ((20,) if name in per_class else ())


def test_the_metric_takes_sums_of_float64_as_a_bootstrap_makes_them():
    metric = metrics.Confusion(num_classes=4, ignore_label=7)
    mask, predicted = random_pair(0, 4)
    mask[mask == 255] = 7
    counts = np.stack([metric.count(mask, predicted)] * 3)
    whole, summed = metric.scores(counts), metric.scores(counts.astype(np.float64))
    for name, values in whole.items():
        np.testing.assert_array_equal(summed[name], values)
        assert len(values) == 3


def test_the_protocol_of_the_metric_says_how_void_and_absent_classes_are_treated():
    assert "void pixels are left out" in metrics.Confusion(num_classes=2).protocol
    assert "over the classes that occur" in metrics.Confusion(num_classes=2).protocol
