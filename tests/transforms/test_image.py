"""Tests of the image transform."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.transforms._mixing import Mix
from segwright.transforms.image import ImageTransform, _draw_pixel, warp_image, warp_mask
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


def test_the_same_flip_twice_gives_the_sample_back() -> None:
    given_sample = sample()
    transform = ImageTransform(crop=(40, 60), **PLAIN, flip_horizontal=True, flip_vertical=True)
    for seed in range(8):
        got = given_sample
        for _ in range(2):
            got = transform(got, np.random.default_rng(seed))
        np.testing.assert_array_equal(got.image, given_sample.image)
        np.testing.assert_array_equal(got.mask, given_sample.mask)


def cubic_weights(num: int, length: int) -> np.ndarray:
    """Share of each of `num` control points in each of `length` pixels, by the cubic kernel of Keys with a = -0.75."""
    weights = np.zeros((length, num))
    for pixel in range(length):
        place = (pixel + 0.5) * num / length - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - tap)
            near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
            weights[pixel, min(max(tap, 0), num - 1)] += near if x <= 1 else far
    return weights


@pytest.mark.parametrize(("num", "grid_px", "deviation_px"), [(3, 64, 10.0), (5, 32, 6.0), (9, 16, 3.0)])
def test_measured_elastic_displacement_is_that_of_theory(num: int, grid_px: int, deviation_px: float) -> None:
    transform = ImageTransform(crop=(128, 128), elastic_px=deviation_px, elastic_grid_px=grid_px)
    bends = [transform._bend((128, 128), np.random.default_rng(seed)) for seed in range(100)]
    # Independent control points: the variance of a pixel is that of a point times the sum of its squared shares.
    theory = deviation_px * np.square(cubic_weights(num, 128)).sum(axis=1).mean()
    assert np.sqrt(np.mean(np.square(bends))) == pytest.approx(theory, rel=0.1)


def test_the_grid_of_unet_bends_as_far_as_measured_for_the_paper() -> None:
    """3 x 3 points of deviation 10 px move pixels by about 8.5 px."""
    transform = ImageTransform(crop=(128, 128), elastic_px=10.0, elastic_grid_px=64)
    bends = [transform._bend((128, 128), np.random.default_rng(seed)) for seed in range(100)]
    assert np.sqrt(np.mean(np.square(bends))) == pytest.approx(8.5, rel=0.1)


def spot(y: int, x: int, size: tuple[int, int] = (120, 160), label: int = 2, ground: int = 0) -> Sample:
    """A spot of 3 x 3 pixels."""
    mask = np.full(size, ground, np.uint8)
    mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = label
    return Sample("a", np.zeros((*size, 3), np.uint8), mask)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 118), st.integers(1, 158), st.sampled_from([(32, 32), (32, 96), (96, 32)]))
def test_a_rare_crop_shows_its_object_wherever_it_lies(seed: int, y: int, x: int, crop: tuple[int, int]) -> None:
    # From a zoom of 1.5 on, a pixel of the image covers the middle of a pixel of the crop at any angle.
    transform = ImageTransform(
        crop=crop, rare_crops=1.0, rotation_degrees=180, flip_horizontal=True, flip_vertical=True, scale=(1.5, 2.0)
    )
    got = transform(spot(y, x, ground=IGNORE_LABEL), np.random.default_rng(seed))
    assert (got.mask == 2).any()


def test_rare_crops_show_small_classes_in_their_share() -> None:
    shares = []
    for rare_crops in (0.0, 0.5, 1.0):
        transform = ImageTransform(crop=(32, 32), rare_crops=rare_crops, **PLAIN)
        views = [transform(spot(20, 130), np.random.default_rng(seed)) for seed in range(80)]
        shares.append(np.mean([(view.mask == 2).any() for view in views]))
    # The crop of 32 x 32 lies anywhere in 120 x 160 with the spot inside in about 9 of 100 places; with two classes
    # one half of the rare crops is around the spot.
    assert shares[0] < 0.15
    assert shares[1] == pytest.approx(0.25 + 0.75 * shares[0], abs=0.12)
    assert shares[2] == pytest.approx(0.5 + 0.5 * shares[0], abs=0.12)


def test_rare_crops_show_their_object_at_many_places() -> None:
    transform = ImageTransform(crop=(32, 48), rare_crops=1.0, **PLAIN)
    places = []
    for seed in range(120):
        view = transform(spot(60, 80, ground=IGNORE_LABEL), np.random.default_rng(seed))
        places.append(np.argwhere(view.mask == 2).mean(axis=0))
    low, high = np.min(places, axis=0), np.max(places, axis=0)
    # The middle half of the crop, plus or minus the size of the spot.
    assert low == pytest.approx([7.5, 11.5], abs=2.5)
    assert high == pytest.approx([23.5, 35.5], abs=2.5)


def test_rare_crops_stay_inside_the_image_where_they_can() -> None:
    transform = ImageTransform(crop=(32, 32), rare_crops=1.0, **PLAIN)
    for seed in range(50):
        got = transform(spot(1, 158), np.random.default_rng(seed))
        assert (got.mask != IGNORE_LABEL).all()


def test_each_class_is_equally_likely_and_each_of_its_pixels() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[3, 4], mask[10:20, 10:20], mask[25:] = 1, 7, IGNORE_LABEL
    pixels = [_draw_pixel(mask, np.random.default_rng(seed)) for seed in range(900)]
    places = np.array(pixels)
    labels = mask[places[:, 1].astype(int), places[:, 0].astype(int)]
    assert (np.mod(places, 1) == 0.5).all()
    for label in (0, 1, 7):
        assert np.mean(labels == label) == pytest.approx(1 / 3, abs=0.07)
    assert len(np.unique(places[labels == 7], axis=0)) > 85


def test_a_mask_that_is_void_everywhere_has_crops_as_well() -> None:
    void = Sample("a", sample().image, np.full((40, 60), IGNORE_LABEL, np.uint8))
    for mix in ("none", "cutmix", "classmix", "copy_paste"):
        transform = ImageTransform(crop=(24, 24), rare_crops=1.0, mix=mix, mix_share=1.0)  # type: ignore[arg-type]
        got = transform(void, np.random.default_rng(0), lambda: void)
        assert (got.mask == IGNORE_LABEL).all()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_of_rare_crops_out_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"transform\.rare_crops"):
        ImageTransform(rare_crops=share)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["cutmix", "classmix", "copy_paste"]), st.booleans())
def test_mixed_views_keep_mask_values_and_depend_on_the_random_state_alone(seed: int, mix: Mix, is_sized: bool) -> None:
    transform = ImageTransform(
        crop=(32, 48) if is_sized else None, mix=mix, mix_share=1.0, rare_crops=0.5, rotation_degrees=30, elastic_px=2.0
    )
    views = [transform(sample(40, 60), np.random.default_rng(seed), lambda: sample(70, 50)) for _ in range(2)]
    assert set(np.unique(views[0].mask)) <= {0, 1, 2, IGNORE_LABEL}
    assert views[0].image.shape == ((32, 48, 3) if is_sized else (40, 60, 3))
    np.testing.assert_array_equal(views[0].image, views[1].image)
    np.testing.assert_array_equal(views[0].mask, views[1].mask)


def test_the_partner_gets_a_view_of_its_own() -> None:
    """Half of a mixed view is a crop of the partner, and not its upper left corner."""
    partner = Sample("b", np.arange(80 * 90 * 3).reshape(80, 90, 3).astype(np.uint16), np.ones((80, 90), np.uint8))
    view = Sample("a", np.zeros((40, 60, 3), np.uint16), np.zeros((40, 60), np.uint8))
    transform = ImageTransform(crop=(40, 60), mix="cutmix", mix_share=1.0, **PLAIN)
    got = transform(view, np.random.default_rng(1), lambda: partner)
    assert got.mask.mean() == pytest.approx(0.5, abs=0.05)
    assert (got.image[got.mask == 1].min(axis=0) > partner.image[1, 1]).all()
    assert (got.image[got.mask == 0] == 0).all()


def test_mixing_without_a_partner_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transform\.mix.*partner"):
        ImageTransform(crop=(24, 24), mix="cutmix")(sample(), np.random.default_rng(0))
