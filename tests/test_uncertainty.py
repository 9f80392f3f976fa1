import warnings

import numpy as np
import pytest
from scipy import stats

from segwright import uncertainty
from segwright.metrics.confusion import intersection_over_union, mean_iou, pixel_accuracy
from segwright.uncertainty import bootstrap_interval


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
    with pytest.raises(ValueError, match="no confusion matrix"):
        bootstrap_interval(np.zeros((0, 2, 2), np.int64), mean_iou)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(random_confusions(3), mean_iou, level=level)
