import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_blocks import blocks
from scipy import ndimage
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries

from segwright.metrics.surface import SurfaceDistances, surface

DISTANCES = ("hd95", "assd", "surface_dice")


def without_void(pair):
    mask, predicted = pair
    return np.where(mask == 255, np.uint8(0), mask), predicted


def dots(size: tuple[int, ...], *places: tuple[int, ...]) -> list[np.ndarray]:
    """Masks with a single pixel of class 1."""
    masks = [np.zeros(size, np.uint8) for _ in places]
    for mask, place in zip(masks, places, strict=True):
        mask[place] = 1
    return masks


def lines_and_speck() -> tuple[np.ndarray, np.ndarray]:
    """A line of 94 pixels in both, and in the prediction a speck of 6 more that is 40 pixels away."""
    mask, predicted = np.zeros((100, 50), np.uint8), np.zeros((100, 50), np.uint8)
    mask[3:97, 4], predicted[3:97, 4] = 1, 1
    predicted[10:16, 44] = 1
    return mask, predicted


def scores_of(mask, predicted, num_classes=2, **options):
    metric = SurfaceDistances(num_classes=num_classes, **options)
    return metric.scores(metric.count(mask, predicted))


def by_distance_transform(mask, predicted, label, tolerance, spacing):
    """HD95, ASSD and surface Dice of one class by erosions and distance transforms; void as the docstring says."""
    void = mask == 255
    edges = []
    for array in (mask, predicted):
        region = (array == label) & ~void
        edges.append(region & ~ndimage.binary_erosion(region | void, border_value=0))
    if not all(map(np.any, edges)):
        return None
    forth, back = (
        ndimage.distance_transform_edt(~target, sampling=spacing)[source] for source, target in (edges, edges[::-1])
    )
    both = np.concatenate([forth, back])
    return max(np.quantile(forth, 0.95), np.quantile(back, 0.95)), both.mean(), (both <= tolerance + 1e-6).mean()


pairs = st.builds(blocks, st.integers(0, 2**31), st.integers(1, 4))


@pytest.mark.parametrize(
    ("first", "second", "spacing", "distance"),
    [
        ((4, 5), (4, 12), None, 7),
        ((4, 5), (8, 8), None, 5),
        ((4, 5), (8, 8), (0.5, 2.0), math.hypot(4 * 0.5, 3 * 2)),
        ((1, 4, 5), (3, 10, 8), None, 7),
        ((1, 4, 5), (3, 10, 8), (3.0, 0.5, 0.5), math.hypot(6, 3, 1.5)),
    ],
)
def test_single_pixels_are_as_far_apart_as_they_are(first, second, spacing, distance):
    mask, predicted = dots((5, 13, 14)[3 - len(first) :], first, second)
    scores = scores_of(mask, predicted, spacing=spacing)
    assert scores["hd95"][1] == pytest.approx(distance)
    assert scores["assd"][1] == pytest.approx(distance)
    assert scores["surface_dice"][1] == 0
    assert scores_of(mask, predicted, spacing=spacing, tolerance=distance)["surface_dice"][1] == 1


def test_percentiles_are_of_each_direction_and_not_of_all_distances_together():
    # 6 of 100 distances of the prediction are 40; of all 194 they are too few for a 95th percentile above 0.
    assert scores_of(*lines_and_speck())["hd95"][1] == 40


def test_the_average_is_over_the_distances_of_both_directions_and_not_over_their_means():
    scores = scores_of(*lines_and_speck())
    assert scores["assd"][1] == pytest.approx(6 * 40 / 194)
    assert scores["surface_dice"][1] == pytest.approx(188 / 194)


@pytest.mark.slow  # importing MONAI takes seconds
@pytest.mark.filterwarnings("ignore::FutureWarning:monai.*")
@pytest.mark.parametrize("spacing", [None, "anisotropic"])
@pytest.mark.parametrize("sizes", [(4, 5), (3, 3, 4)])
def test_scores_agree_with_monai(sizes, spacing):
    metrics = pytest.importorskip("monai.metrics")
    spacing = (0.5, 2.0, 1.5)[: len(sizes)] if spacing else None
    mask, predicted = without_void(blocks(2, 4, sizes))
    scores = scores_of(mask, predicted, 4, tolerance=1.6, spacing=spacing)
    one_hot = [torch.nn.functional.one_hot(torch.from_numpy(array).long(), 4) for array in (predicted, mask)]
    tensors = [array.movedim(-1, 0)[None].float() for array in one_hot]
    options = {"include_background": True, "spacing": spacing}
    expected = {
        "hd95": metrics.compute_hausdorff_distance(*tensors, percentile=95, **options),
        "assd": metrics.compute_average_surface_distance(*tensors, symmetric=True, **options),
        "surface_dice": metrics.compute_surface_dice(*tensors, class_thresholds=[1.6] * 4, **options),
    }
    assert not np.isnan(scores["hd95"]).any()
    for name, values in expected.items():
        np.testing.assert_allclose(scores[name], values[0].numpy(), rtol=1e-5)


@settings(max_examples=12, deadline=None)
@given(pairs, st.sampled_from([None, (0.7, 2.0)]))
def test_scores_are_those_of_distance_transforms(pair, spacing):
    scores = scores_of(*pair, 4, tolerance=2.1, spacing=spacing)
    for label in range(4):
        expected = by_distance_transform(*pair, label, 2.1, spacing)
        if expected is None:
            assert all(np.isnan(scores[name][label]) for name in DISTANCES)
        else:
            np.testing.assert_allclose([scores[name][label] for name in DISTANCES], expected, rtol=1e-9)


@given(st.integers(0, 2**31))
@settings(max_examples=12, deadline=None)
def test_surfaces_without_the_image_border_are_those_of_scikit_image(seed):
    labels, _ = without_void(blocks(seed, 4))
    expected = find_boundaries(labels, connectivity=1, mode="thick")
    np.testing.assert_array_equal(surface(labels, 255, image_border=False), expected)


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_hd95_is_at_most_the_hausdorff_distance_of_scikit_image(pair):
    mask, predicted = without_void(pair)
    scores = scores_of(mask, predicted, 4)
    for label in np.flatnonzero(~np.isnan(scores["hd95"])):
        edges = [surface(array, 255, image_border=True) & (array == label) for array in (mask, predicted)]
        assert scores["assd"][label] <= hausdorff_distance(*edges) + 1e-9
        assert scores["hd95"][label] <= hausdorff_distance(*edges) + 1e-9


def test_an_image_in_which_the_class_is_missed_is_counted_apart_and_hides_no_distance():
    size = (10, 10)
    first, second = dots(size, (2, 2), (2, 5))
    nothing = np.zeros(size, np.uint8)
    metric = SurfaceDistances(num_classes=2)
    images = [(first, second), (first, nothing), (nothing, first), (nothing, nothing)]
    scores = metric.scores(np.sum([metric.count(*pair) for pair in images], axis=0))
    assert scores["hd95"][1] == 3
    assert scores["assd"][1] == 3
    assert scores["missed_or_invented"].tolist() == [0, 2 / 3]
    assert scores["mean_missed_or_invented"] == pytest.approx(1 / 3)


def test_a_class_that_is_always_missed_has_a_share_but_no_distance():
    mask, nothing = dots((10, 10), (2, 2))[0], np.zeros((10, 10), np.uint8)
    scores = scores_of(mask, nothing, 3)
    assert all(np.isnan(scores[name][1]) for name in DISTANCES)
    np.testing.assert_array_equal(scores["missed_or_invented"], [0, 1, np.nan])
    assert np.isfinite(scores["mean_hd95"])  # of the background


def test_background_can_be_left_out_of_the_means():
    pair = without_void(blocks(0, 3))
    scores, without = scores_of(*pair, 3), scores_of(*pair, 3, include_background=False)
    assert scores["mean_hd95"] == pytest.approx(scores["hd95"].mean())
    assert without["mean_hd95"] == pytest.approx(scores["hd95"][1:].mean())
    assert "leave out class 0" in SurfaceDistances(include_background=False, num_classes=3).protocol


def test_the_score_of_a_set_is_the_mean_over_images():
    size = (10, 10)
    metric = SurfaceDistances(num_classes=2)
    counts = metric.count(*dots(size, (2, 2), (2, 3))) + metric.count(*dots(size, (2, 2), (2, 7)))
    scores = metric.scores(counts)
    assert scores["hd95"][1] == 3
    assert scores["surface_dice"][1] == 1 / 2


def test_a_tolerance_of_whole_steps_takes_them_at_any_spacing():
    pair = dots((12, 10), (6, 2), (9, 2))
    assert 9 * 0.7 - 6 * 0.7 > 2.1
    assert scores_of(*pair, spacing=(0.7, 0.7), tolerance=2.1)["surface_dice"][1] == 1
    assert scores_of(*pair, spacing=(0.7, 0.7), tolerance=2.0)["surface_dice"][1] == 0


def test_void_gives_its_neighbors_no_surface():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 1
    border_only = surface(np.where(mask == 1, np.uint8(255), np.uint8(0)), 255, image_border=True)
    assert border_only.sum() == 4 * 19
    mask[5:15, 10:] = 255
    assert surface(mask, 255, image_border=False)[5:15, 5:10].sum() == 10 + 2 * 4  # three of the four sides
    assert not surface(mask, 255, image_border=True)[mask == 255].any()


def test_a_class_that_void_hides_in_the_mask_is_neither_measured_nor_missed():
    mask = np.zeros((12, 12), np.uint8)
    mask[3:9, 3:9] = 255
    mask[4:8, 4:8] = 1
    predicted = np.zeros_like(mask)
    predicted[5:7, 5:7] = 1
    scores = scores_of(mask, predicted)
    assert np.isnan(scores["hd95"][1])
    assert scores["missed_or_invented"][1] == 0


@settings(max_examples=12, deadline=None)
@given(pairs, st.integers(0, 2**31))
def test_predictions_in_void_change_nothing(pair, seed):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(4, size=mask.shape).astype(np.uint8)
    metric = SurfaceDistances(num_classes=4)
    changed = np.where(mask == 255, noise, predicted)
    np.testing.assert_array_equal(metric.count(mask, changed), metric.count(mask, predicted))


@settings(max_examples=12, deadline=None)
@given(pairs, st.permutations(range(4)))
def test_permuting_classes_permutes_counts(pair, order):
    mask, predicted = pair
    rename = np.arange(256, dtype=np.uint8)
    rename[:4] = order
    metric = SurfaceDistances(num_classes=4)
    np.testing.assert_array_equal(metric.count(rename[mask], rename[predicted])[list(order)], metric.count(*pair))


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_flips_and_transposition_with_the_spacing_change_nothing(pair):
    metric = SurfaceDistances(spacing=(0.5, 2.0), num_classes=4)
    expected = metric.count(*pair)
    for turn in (np.flipud, np.fliplr):
        np.testing.assert_allclose(metric.count(*map(turn, pair)), expected, rtol=1e-12)
    turned = SurfaceDistances(spacing=(2.0, 0.5), num_classes=4)
    np.testing.assert_allclose(turned.count(*map(np.transpose, pair)), expected, rtol=1e-12)


@settings(max_examples=12, deadline=None)
@given(pairs)
def test_a_perfect_prediction_is_nowhere_off(pair):
    mask, _ = pair
    scores = scores_of(mask, np.where(mask == 255, 0, mask).astype(np.uint8), 4, tolerance=0)
    measured = ~np.isnan(scores["hd95"])
    assert (scores["hd95"][measured] == 0).all()
    assert (scores["assd"][measured] == 0).all()
    assert (scores["surface_dice"][measured] == 1).all()
    assert (scores["missed_or_invented"][np.isin(np.arange(4), mask)] == 0).all()


def test_a_slice_of_a_volume_is_measured_as_an_image_is():
    mask, predicted = dots((10, 10), (2, 2), (2, 6))
    flat = scores_of(mask, predicted)
    deep = scores_of(mask[None], predicted[None])
    assert deep["hd95"][1] == flat["hd95"][1] == 4


def test_leading_axes_give_the_same_scores_as_single_sets():
    metric = SurfaceDistances(num_classes=4)
    counts = np.stack([metric.count(*blocks(seed, 4)) for seed in range(6)])
    together = metric.scores(counts.reshape(2, 3, 4, 6))
    for name, values in together.items():
        width = () if name.startswith("mean_") else (4,)
        assert values.shape == (2, 3, *width)
        np.testing.assert_array_equal(
            values.reshape(6, *width), np.stack([metric.scores(single)[name] for single in counts])
        )


def test_the_rounding_error_of_a_sum_without_images_is_no_score():
    scores = SurfaceDistances(num_classes=1).scores(np.array([[1e-16, 1e-16, 1e-16, 0, 0, 0]]))
    assert all(np.isnan(values).all() for values in scores.values())


def test_a_mask_of_only_void_has_no_score():
    void = np.full((4, 4), 255, np.uint8)
    assert all(np.isnan(values).all() for values in scores_of(void, np.zeros_like(void), 3).values())


def test_another_ignore_label_is_left_out():
    mask, predicted = blocks(0, 3)
    expected = SurfaceDistances(num_classes=4).count(mask, predicted)
    mask = np.where(mask == 255, np.uint8(3), mask)
    np.testing.assert_array_equal(SurfaceDistances(num_classes=4, ignore_label=3).count(mask, predicted), expected)


def test_distances_errors_and_nothing_else_are_better_when_low():
    low = SurfaceDistances.lower_is_better
    assert low == {name for name in scores_of(*lines_and_speck()) if not name.endswith("surface_dice")}


def test_classes_that_do_not_exist_are_refused():
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="the prediction holds class 3, but there are 3 classes"):
        SurfaceDistances(num_classes=3).count(mask, mask + np.uint8(3))


@pytest.mark.parametrize("tolerance", [-1.0, math.inf, math.nan])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"metric\.surface\.tolerance is .*; try 1"):
        SurfaceDistances(tolerance, num_classes=2)


@pytest.mark.parametrize("spacing", [(1.0, 0.0), (1.0, -2.0), (math.inf, 1.0)])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ValueError, match=r"metric\.surface\.spacing is .*; give one positive number an axis"):
        SurfaceDistances(spacing=spacing, num_classes=2)


def test_a_spacing_for_another_number_of_axes_is_refused():
    mask = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"metric\.surface\.spacing has 3 numbers, but the mask has 2 axes"):
        SurfaceDistances(spacing=(1.0, 1.0, 1.0), num_classes=2).count(mask, mask)


def test_the_protocol_names_the_units_and_the_tolerance():
    assert "in pixels" in SurfaceDistances(num_classes=2).protocol
    protocol = SurfaceDistances(2.5, (1.0, 0.5), num_classes=2).protocol
    assert "the units of the spacing (1.0, 0.5)" in protocol
    assert "within 2.5 of the other" in protocol
