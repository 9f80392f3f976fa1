import numpy as np
import pytest
from scipy import ndimage

from segwright.layers.distances import distance_to


def marked(*size, share=0.2):
    return np.random.default_rng(0).random(size) < share


def by_all_pairs(pixels, spacing):
    places = np.argwhere(np.ones(pixels.shape)) * np.asarray(spacing)  # N S
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)  # N N
    return apart[:, pixels.ravel()].min(axis=1).reshape(pixels.shape)


@pytest.mark.parametrize("size", [(11,), (7, 9), (1, 8), (4, 5, 6)])
def test_equals_the_nearest_of_all_pairs_for_any_number_of_axes(size):
    pixels = marked(*size)
    np.testing.assert_allclose(distance_to(pixels), by_all_pairs(pixels, [1.0] * len(size)), rtol=1e-6)


@pytest.mark.parametrize("spacing", [(2.0,), (0.3, 0.3), (2.0, 0.5), (0.5, 2.0), (3.0, 1.0, 0.5)])
def test_spacing_is_that_of_the_axes_in_their_order(spacing):
    pixels = marked(*(11, 9, 4)[: len(spacing)])
    np.testing.assert_allclose(distance_to(pixels, spacing), by_all_pairs(pixels, spacing), rtol=1e-6)


def test_large_pictures_are_exact_to_the_last_bit():
    pixels = marked(300, 700, share=2e-5)
    expected = ndimage.distance_transform_edt(~pixels).astype(np.float32)
    assert expected.max() > 100
    np.testing.assert_array_equal(distance_to(pixels), expected)


def test_nothing_marked_is_infinitely_far():
    assert np.isposinf(distance_to(np.zeros((3, 4), np.bool_))).all()


def test_everything_marked_is_at_distance_zero():
    for size in ((1,), (1, 1), (3, 4), (2, 3, 4)):
        assert not distance_to(np.ones(size, np.bool_)).any()


def test_transposed_and_strided_arrays_are_taken():
    pixels = marked(12, 10)
    np.testing.assert_array_equal(distance_to(pixels.T), distance_to(pixels).T)
    np.testing.assert_array_equal(distance_to(pixels[::2, ::-3]), distance_to(pixels[::2, ::-3].copy()))
