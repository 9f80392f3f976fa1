import numpy as np
import pytest

from segwright.inference.overlay import ERROR_COLOR, colorize, error_map, overlay, to_rgb
from segwright.types import Classes

CLASSES = Classes(("ground", "tree"), ((10, 20, 30), (200, 100, 0)))


def random_image(dtype: type, channels: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, size=(*size, channels))
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_image_becomes_rgb(dtype, channels):
    shown = to_rgb(random_image(dtype, channels))
    assert shown.shape == (20, 30, 3)
    assert shown.dtype == np.uint8


def test_8_bit_rgb_is_shown_as_it_is():
    image = random_image(np.uint8, 3)
    assert np.array_equal(to_rgb(image), image)


def test_one_channel_is_gray():
    shown = to_rgb(random_image(np.uint8, 1))
    assert np.array_equal(shown[..., 0], shown[..., 1])
    assert np.array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_narrow_range_is_stretched_and_order_is_kept(dtype):
    ramp = np.linspace(1000, 1100, 600).reshape(20, 30, 1).astype(dtype)
    shown = to_rgb(ramp)[..., 0].ravel().astype(int)
    assert shown.min() == 0
    assert shown.max() == 255
    assert np.all(np.diff(shown) >= 0)


def test_stretching_keeps_colors():
    image = np.zeros((20, 30, 3), np.uint16)
    image[:, :15] = (4000, 2000, 0)
    assert to_rgb(image)[0, 0].tolist() == [255, 128, 0]


def test_bands_are_stretched_one_by_one():
    image = np.zeros((20, 30, 6), np.float32)
    image[:, :15, 0], image[:, :15, 1] = 0.01, 5000.0
    assert to_rgb(image)[0, 0].tolist() == [255, 255, 0]


def test_one_bright_pixel_does_not_darken_the_rest():
    image = random_image(np.float32, 1)
    image[3, 3] = 1e6
    assert to_rgb(image).mean() > 90


def test_values_that_are_not_finite_become_black():
    image = random_image(np.float32, 3)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, -np.inf
    shown = to_rgb(image)
    assert shown[[0, 1, 2], [0, 1, 2]].sum() == 0
    assert shown.mean() > 90


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_a_constant_image_is_shown_without_a_warning(value):
    with np.errstate(all="raise"):
        assert to_rgb(np.full((4, 5, 1), value, np.float32)).max() == 0


def test_an_image_without_channel_axis_is_refused():
    with pytest.raises(ValueError, match=r"\(H, W, C\)"):
        to_rgb(np.zeros((4, 4), np.uint8))


def test_masks_take_the_colors_of_their_classes_and_void_is_gray():
    mask = np.array([[0, 1, 255, 9]], np.uint8)
    colored = colorize(mask, CLASSES)
    assert colored[0, 0].tolist() == [10, 20, 30]
    assert colored[0, 1].tolist() == [200, 100, 0]
    assert len(set(colored[0, 2].tolist())) == 1
    assert colored[0, 3].tolist() == [0, 0, 0]


def test_void_is_hatched_with_two_grays():
    assert len(np.unique(colorize(np.full((16, 16), 255, np.uint8), CLASSES))) == 2


def test_opacity_one_shows_the_mask_and_zero_the_image():
    image, mask = random_image(np.uint8, 3), np.ones((20, 30), np.uint8)
    assert np.array_equal(overlay(image, mask, CLASSES, 1.0), colorize(mask, CLASSES))
    assert np.array_equal(overlay(image, mask, CLASSES, 0.0), image)


def test_regions_are_outlined_in_full_color():
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10] = 1
    shown = overlay(image, mask, CLASSES, 0.5)
    assert shown[7, 9].tolist() == [200, 100, 0]
    assert shown[7, 7].tolist() == [100, 50, 0]


def test_drawing_changes_neither_image_nor_mask():
    image, mask = random_image(np.uint8, 3), np.full((20, 30), 255, np.uint8)
    before = image.copy(), mask.copy()
    overlay(image, mask, CLASSES)
    error_map(image, mask, np.zeros_like(mask))
    assert np.array_equal(image, before[0])
    assert np.array_equal(mask, before[1])


def test_wrong_pixels_and_only_they_have_the_error_color():
    image, mask = random_image(np.uint16, 1), np.zeros((20, 30), np.uint8)
    mask[:, 20:] = 255
    predicted = np.zeros_like(mask)
    predicted[4, 3:25] = 1
    wrong = (error_map(image, mask, predicted) == ERROR_COLOR).all(axis=-1)
    assert np.array_equal(wrong, (mask != predicted) & (mask != 255))


def test_other_sizes_are_refused():
    image = random_image(np.uint8, 3)
    with pytest.raises(ValueError, match="the image is 20 x 30, but the mask is 30 x 20"):
        overlay(image, np.zeros((30, 20), np.uint8), CLASSES)
    with pytest.raises(ValueError, match="the prediction is 10 x 10"):
        error_map(image, np.zeros((20, 30), np.uint8), np.zeros((10, 10), np.uint8))


def test_opacity_above_one_is_refused():
    with pytest.raises(ValueError, match="opacity is 50"):
        overlay(random_image(np.uint8, 3), np.zeros((20, 30), np.uint8), CLASSES, 50)
