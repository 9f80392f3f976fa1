"""Tests of the order of images."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import write_pair

from segwright.data.inspection import inspect
from segwright.data.sampling import Order, make_order, repeat_factors

SHOWN = [{0}] * 12 + [{0, 1}] * 5 + [{0, 1, 2}, {0, 2}, {3}]
"""Twenty images: class 1 in six of them, class 2 in two, class 3 in one."""


def count(order: Order, epoch: int) -> np.ndarray:
    return np.bincount(order.images(epoch), minlength=order.num_images)


@pytest.mark.parametrize("epoch", [0, 1, 12])
def test_a_uniform_order_is_one_permutation_an_epoch(epoch: int) -> None:
    expected = np.random.default_rng((7, 0, epoch)).permutation(20)
    np.testing.assert_array_equal(make_order("uniform", SHOWN, seed=7).images(epoch), expected)


def test_a_balanced_order_without_rare_classes_is_the_uniform_one() -> None:
    common = [{0, 1}, {0}, {1}, {0, 1}]
    orders = [make_order(sampling, common, seed=3) for sampling in ("uniform", "balanced")]
    np.testing.assert_array_equal(*(order.images(5) for order in orders))


def test_repeats_are_those_of_the_formula() -> None:
    factors = repeat_factors(SHOWN, 0.4)
    of_class = {0: 1.0, 1: math.sqrt(0.4 / 0.3), 2: math.sqrt(0.4 / 0.1), 3: math.sqrt(0.4 / 0.05)}
    assert factors == pytest.approx([max(of_class[label] for label in classes) for classes in SHOWN])


def test_an_image_without_classes_comes_once_and_counts_in_the_shares() -> None:
    assert repeat_factors([set(), set(), set(), {1}], 1.0) == [1, 1, 1, 2]


def test_a_class_that_is_listed_twice_counts_once() -> None:
    assert repeat_factors([[1, 1], [0], [0], [0]], 1.0)[0] == 2


@pytest.mark.parametrize("rare_below", [0.0, -0.1, 1.5, math.nan])
def test_a_threshold_that_is_no_share_is_refused(rare_below: float) -> None:
    with pytest.raises(ValueError, match=r"train\.rare_below"):
        make_order("balanced", SHOWN, rare_below=rare_below)


@pytest.mark.parametrize("repeats", [[], [1.0, 0.5]])
def test_an_order_needs_images_that_come(repeats: list[float]) -> None:
    with pytest.raises(ValueError, match="at least once an epoch"):
        Order(repeats)


repeats_of_images = st.lists(st.floats(1, 9), min_size=1, max_size=12)


@given(repeats_of_images, st.integers(0, 99), st.integers(0, 2**40))
def test_every_epoch_has_the_same_length_and_every_image(repeats: list[float], seed: int, epoch: int) -> None:
    order = Order(repeats, seed)
    counts = count(order, epoch)
    assert counts.sum() == len(order)
    assert sum(repeats) - 1e-3 <= len(order) < sum(repeats) + 1.001
    stretched = np.array(repeats) * len(order) / sum(repeats)
    assert (counts >= np.floor(stretched - 1e-3).clip(1)).all()
    assert (counts <= np.ceil(stretched + 1e-3)).all()


def test_rounding_is_right_on_average() -> None:
    repeats = [1.0, 1.3, 1.0, 2.7, 1.1, 3.5, 1.9]
    order = Order(repeats, seed=1)
    mean = np.mean([count(order, epoch) for epoch in range(1000)], axis=0)
    # Five standard errors of a coin with a chance of one half are 0.08.
    np.testing.assert_allclose(mean, np.array(repeats) * len(order) / sum(repeats), atol=0.08)


def test_copies_of_an_image_do_not_follow_each_other() -> None:
    order = Order([1.0] * 20 + [4.0] * 2)
    images = np.concatenate([order.images(epoch) for epoch in range(40)])
    # Side by side, 6 of 28 samples would be copies of the one before; in a random order it is about 1 in 30.
    assert np.mean(images[1:] == images[:-1]) < 0.08


@given(repeats_of_images, st.integers(0, 60))
def test_the_place_of_a_sample_is_where_one_gets_by_walking(repeats: list[float], number: int) -> None:
    order = Order(repeats, seed=4)
    walked = [(epoch, position) for epoch in range(number + 1) for position in range(len(order))][number]
    assert order.place(number) == walked


def test_a_place_far_away_is_found_at_once() -> None:
    order = make_order("balanced", SHOWN)
    epoch, position = order.place(10**15)
    assert epoch * len(order) + position == 10**15
    assert len(order.images(epoch)) == len(order)


def test_epochs_and_seeds_differ() -> None:
    first, again, second = (make_order("balanced", SHOWN, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images(3), again.images(3))
    assert not np.array_equal(first.images(3), first.images(4))
    assert not np.array_equal(first.images(3), second.images(3))


def test_rare_classes_are_seen_more_often_by_the_factor_of_the_formula() -> None:
    order = make_order("balanced", SHOWN, rare_below=0.5)
    drawn = np.concatenate([order.images(epoch) for epoch in range(300)])
    factors = np.array(repeat_factors(SHOWN, 0.5))
    for label in (1, 2, 3):
        shows = np.array([label in classes for classes in SHOWN])
        assert shows[drawn].mean() > 1.1 * shows.mean()
        assert shows[drawn].mean() == pytest.approx(factors[shows].sum() / factors.sum(), abs=0.01)


def test_the_inspection_tells_the_classes_of_each_pair(tmp_path: Path) -> None:
    for number in range(4):
        write_pair(tmp_path, "train", f"{number}", number)
    for name, label in (("1", 0), ("2", 255)):
        cv2.imwrite(str(tmp_path / "masks" / "train" / f"{name}.png"), np.full((64, 64), label, np.uint8))
    (tmp_path / "dataset.yaml").write_text("names: {0: nothing, 1: thing}\nignore: 255\n")
    inspection = inspect(tmp_path)
    pairs = [pair for split in inspection.dataset.splits.values() for pair in split]
    shown = {pair.name: inspection.shown[pair] for pair in pairs}
    assert shown == {"0": (0, 1), "1": (0,), "2": (), "3": (0, 1)}
    assert "shown" not in inspection.to_json()


def test_images_without_masks_show_nothing(tmp_path: Path) -> None:
    write_pair(tmp_path, "test", "0", 0)
    inspection = inspect(tmp_path / "images" / "test")
    assert list(inspection.shown.values()) == [()]
