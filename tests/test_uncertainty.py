import warnings

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import stats

from segwright import uncertainty
from segwright.metrics.confusion import intersection_over_union, mean_iou, pixel_accuracy
from segwright.uncertainty import adjust_p_values, bootstrap_interval, paired_difference


def random_confusions(num_images: int, num_classes: int = 3, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    errors = generator.integers(40, size=(num_images, num_classes, num_classes))
    return errors + np.eye(num_classes, dtype=np.int64) * generator.integers(50, 400, size=(num_images, 1, 1))


def test_the_interval_holds_the_score_of_the_set():
    confusions = random_confusions(40)
    low, high = bootstrap_interval(confusions, mean_iou)
    assert low < mean_iou(confusions.sum(axis=0)) < high


@pytest.mark.slow
def test_the_interval_agrees_with_scipy():
    confusions = random_confusions(30)
    ours = bootstrap_interval(confusions, mean_iou, resamples=8000)
    oracle = stats.bootstrap(
        (np.arange(30),),
        lambda chosen: mean_iou(confusions[chosen].sum(axis=0)),
        n_resamples=2000,
        method="percentile",
        vectorized=False,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = oracle.high - oracle.low
    np.testing.assert_allclose(ours, oracle, atol=0.08 * width)


def test_a_score_per_class_gets_an_interval_per_class():
    low, high = bootstrap_interval(random_confusions(20, 5), intersection_over_union)
    assert low.shape == high.shape == (5,)
    assert np.all(low < high)


def test_the_same_seed_gives_the_same_interval():
    confusions = random_confusions(10)
    first, second, other = (bootstrap_interval(confusions, mean_iou, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_small_memory_changes_no_number(monkeypatch):
    confusions = random_confusions(23, 4)
    whole = bootstrap_interval(confusions, intersection_over_union, resamples=100)
    monkeypatch.setattr(uncertainty, "_MOST_CELLS", 70)
    parts = bootstrap_interval(confusions, intersection_over_union, resamples=100)
    np.testing.assert_array_equal(whole, parts)


def test_more_images_make_the_interval_narrower():
    few, many = (bootstrap_interval(random_confusions(number), mean_iou) for number in (10, 640))
    assert (many[1] - many[0]) < 0.3 * (few[1] - few[0])


def test_a_higher_level_makes_the_interval_wider():
    confusions = random_confusions(20)
    narrow, wide = (bootstrap_interval(confusions, mean_iou, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_equal_images_have_an_interval_of_no_width():
    confusions = np.repeat(random_confusions(1), 9, axis=0)
    low, high = bootstrap_interval(confusions, pixel_accuracy)
    assert low == high == pixel_accuracy(confusions[0])


def test_one_image_has_no_interval():
    low, high = bootstrap_interval(random_confusions(1), intersection_over_union)
    assert np.isnan(low).all()
    assert np.isnan(high).all()
    assert low.shape == (3,)


def test_an_absent_class_has_no_interval_and_makes_no_warning():
    confusions = random_confusions(12, 4)
    confusions[:, 3] = 0
    confusions[:, :, 3] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = bootstrap_interval(confusions, intersection_over_union)
    assert np.isnan(low[3])
    assert np.isnan(high[3])
    assert not np.isnan(low[:3]).any()


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="no image was counted"):
        bootstrap_interval(np.zeros((0, 2, 2), np.int64), mean_iou)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(random_confusions(3), mean_iou, level=level)


def two_segmenters(num_images: int = 25, gain: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Confusions of one segmenter, and of a better one: some errors of each image are right there."""
    first = random_confusions(num_images)
    second = first.copy()
    moved = np.minimum(first[:, 0, 1], gain)
    second[:, 0, 1] -= moved
    second[:, 0, 0] += moved
    return first, second


def test_a_paired_difference_is_that_of_the_scores() -> None:
    first, second = two_segmenters()
    found = paired_difference(first, second, mean_iou)
    assert found.value == pytest.approx(mean_iou(second.sum(axis=0)) - mean_iou(first.sum(axis=0)))
    assert found.low < found.value < found.high


def test_the_order_of_a_pair_only_changes_the_sign() -> None:
    first, second = two_segmenters()
    one, other = paired_difference(first, second, mean_iou), paired_difference(second, first, mean_iou)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p_value == other.p_value


@pytest.mark.slow
def test_the_p_value_agrees_with_scipy() -> None:
    first, second = random_confusions(12, seed=1), random_confusions(12, seed=2)
    pairs = np.stack([first, second])

    def gain(one: np.ndarray, other: np.ndarray) -> float:
        def score(owners: np.ndarray) -> float:
            return float(mean_iou(pairs[owners.astype(int), np.arange(12)].sum(axis=0)))

        return score(other) - score(one)

    oracle = stats.permutation_test(
        (np.zeros(12), np.ones(12)), gain, permutation_type="samples", n_resamples=4096, vectorized=False
    )
    assert paired_difference(first, second, mean_iou, resamples=8000).p_value == pytest.approx(oracle.pvalue, abs=0.03)


def test_equal_segmenters_differ_by_chance() -> None:
    first, _ = two_segmenters()
    found = paired_difference(first, first, mean_iou)
    assert (found.value, found.p_value) == (0, 1)


def test_a_clear_gain_is_more_than_chance_and_a_gain_on_one_image_is_not() -> None:
    first, second = two_segmenters()
    assert paired_difference(first, second, mean_iou).p_value < 0.001
    second[1:] = first[1:]
    assert paired_difference(first, second, mean_iou).p_value == pytest.approx(1)


def test_a_paired_interval_is_narrower_than_those_of_the_scores() -> None:
    first, second = two_segmenters()
    low, high = bootstrap_interval(first, mean_iou)
    found = paired_difference(first, second, mean_iou)
    assert found.high - found.low < 0.5 * (high - low)


def test_pairs_of_other_sizes_are_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError), match=r"second|a pair needs the same images and classes"):
        paired_difference(random_confusions(3), random_confusions(4), mean_iou)


def test_p_values_of_several_comparisons_are_raised_as_holm_says() -> None:
    assert adjust_p_values([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_p_values([]) == []


def test_counts_of_any_shape_are_taken() -> None:
    values = np.random.default_rng(0).normal(5, 1, (50, 1, 2)).astype(np.float64)
    values[..., 1] = 1  # a mean over images: the sum and the number of images
    low, high = bootstrap_interval(values, lambda sums: sums[:, 0, 0] / sums[:, 0, 1])
    error = values[..., 0].std() / 50**0.5
    assert low == pytest.approx(values[..., 0].mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values[..., 0].mean() + 1.96 * error, abs=0.2 * error)


def test_unknown_scores_are_never_more_than_chance() -> None:
    first, second = two_segmenters()
    found = paired_difference(first, second, lambda sums: np.full(len(sums), np.nan))
    assert np.isnan(found.value)
    assert found.p_value == 1
