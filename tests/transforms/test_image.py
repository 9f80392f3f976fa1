"""Tests of the image transform."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.transforms.image import ImageTransform, warp_image, warp_mask
from segwright.types import IGNORE_LABEL, Sample

PLAIN = {"scale": (1.0, 1.0), "rotation_degrees": 0.0, "light": 0.0, "color": 0.0, "noise": 0.0}


def sample(height: int = 40, width: int = 60, channels: int = 3, dtype: type = np.uint8) -> Sample:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 255, (height, width, channels)).astype(dtype)
    return Sample("a", image, rng.integers(0, 3, (height, width)).astype(np.uint8))


def test_without_any_change_the_sample_comes_back() -> None:
    given_sample = sample()
    got = ImageTransform(crop=(40, 60), **PLAIN)(given_sample, np.random.default_rng(0))
    np.testing.assert_array_equal(got.image, given_sample.image)
    np.testing.assert_array_equal(got.mask, given_sample.mask)


def test_a_crop_is_a_part_of_the_image_with_its_mask() -> None:
    given_sample = sample()
    got = ImageTransform(crop=(32, 32), **PLAIN)(given_sample, np.random.default_rng(3))
    places = [
        (y, x)
        for y in range(9)
        for x in range(29)
        if np.array_equal(given_sample.image[y : y + 32, x : x + 32], got.image)
    ]
    # Whole-pixel crops are exact only when the drawn center lies on the grid; the nearest one is within rounding.
    if places:
        y, x = places[0]
        np.testing.assert_array_equal(got.mask, given_sample.mask[y : y + 32, x : x + 32])
    assert got.image.shape == (32, 32, 3)


@pytest.mark.parametrize(("axis", "option"), [(1, "flip_horizontal"), (0, "flip_vertical")])
def test_a_flip_mirrors_image_and_mask_alike(axis: int, option: str) -> None:
    given_sample = sample()
    transform = ImageTransform(crop=(40, 60), **PLAIN, **{option: True})
    seen = [transform(given_sample, np.random.default_rng(seed)) for seed in range(12)]
    flipped = [got for got in seen if not np.array_equal(got.image, given_sample.image)]
    assert 0 < len(flipped) < 12
    for got in flipped:
        np.testing.assert_array_equal(got.image, np.flip(given_sample.image, axis))
        np.testing.assert_array_equal(got.mask, np.flip(given_sample.mask, axis))


def test_no_flip_happens_unless_asked() -> None:
    given_sample = sample()
    transform = ImageTransform(crop=(40, 60), **PLAIN)
    for seed in range(8):
        np.testing.assert_array_equal(transform(given_sample, np.random.default_rng(seed)).image, given_sample.image)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 90), st.integers(20, 90))
def test_a_mask_keeps_its_values_and_void_stays_outside(seed: int, height: int, width: int) -> None:
    given_sample = sample(height, width)
    transform = ImageTransform(crop=(48, 48), elastic_px=4.0, flip_horizontal=True, flip_vertical=True)
    got = transform(given_sample, np.random.default_rng(seed))
    assert got.image.shape == (48, 48, 3)
    assert set(np.unique(got.mask)) <= {0, 1, 2, IGNORE_LABEL}


def test_the_same_random_state_gives_the_same_view() -> None:
    transform = ImageTransform(crop=(32, 48), elastic_px=3.0)
    first, second = (transform(sample(), np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)


def test_image_and_mask_move_together() -> None:
    """A picture of the mask, warped as an image, says the same as the warped mask away from edges."""
    mask = np.zeros((80, 80), np.uint8)
    cv2.circle(mask, (40, 40), 22, 1, -1)
    picture = np.repeat(mask[..., None] * 200, 3, axis=2)
    transform = ImageTransform(crop=(80, 80), elastic_px=3.0, light=0.0, color=0.0, noise=0.0)
    for seed in range(5):
        got = transform(Sample("a", picture, mask), np.random.default_rng(seed))
        inside = got.mask != IGNORE_LABEL
        assert np.mean((got.image[..., 0] > 100)[inside] == (got.mask == 1)[inside]) > 0.99


def test_zooming_out_beyond_the_image_leaves_void() -> None:
    transform = ImageTransform(crop=(64, 64), **PLAIN | {"scale": (0.5, 0.5)})
    got = transform(sample(64, 64), np.random.default_rng(0))
    assert np.mean(got.mask == IGNORE_LABEL) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_type_and_channels_stay(dtype: type, channels: int) -> None:
    got = ImageTransform(crop=(24, 24))(sample(40, 60, channels, dtype), np.random.default_rng(0))
    assert got.image.dtype == dtype
    assert got.image.shape == (24, 24, channels)


def test_elastic_displacement_has_the_asked_size() -> None:
    transform = ImageTransform(crop=(256, 256), elastic_px=6.0, elastic_grid_px=64)
    bends = [transform._bend((256, 256), np.random.default_rng(seed)) for seed in range(20)]
    # Cubic interpolation between control points of deviation 6 keeps the deviation within a third.
    assert 4.0 < np.std(bends) < 8.0


def test_warping_reads_beyond_the_limit_of_opencv() -> None:
    image = np.zeros((8, 40_000, 3), np.uint8)
    image[:, 39_000:] = 200
    matrix = np.array([[1, 0, 39_100], [0, 1, 0]], np.float32)
    assert (warp_image(image, matrix, (8, 100)) == 200).all()
    assert (warp_mask(image[..., 0], matrix, (8, 100)) == 200).all()


def test_a_scale_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transform\.scale"):
        ImageTransform(scale=(0.0, 1.0))


def test_unequal_seeds_give_unequal_views() -> None:
    transform = ImageTransform(crop=(32, 32))
    views = {transform(sample(), np.random.default_rng(seed)).image.tobytes() for seed in range(6)}
    assert len(views) == 6
