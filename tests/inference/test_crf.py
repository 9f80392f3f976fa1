"""Tests of the dense CRF, with a mean field over all pairs of pixels in plain numpy as the reference."""

import os
from dataclasses import replace

import numpy as np
import pytest

from segwright.inference.crf import DenseCRF
from segwright.inference.lattice import PermutohedralLattice

AUTHORS_EXAMPLE = DenseCRF(
    bilateral_weight=10, bilateral_sigma_px=80, color_sigma=13, smoothness_weight=3, smoothness_sigma_px=3, iterations=5
)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def draw_image(height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A left and a right half with noise."""
    generator = np.random.default_rng(seed)
    halves = np.where(np.arange(width) < width / 2, 60, 170)[None, :, None]
    return np.clip(halves + generator.normal(0, 8, (height, width, channels)), 0, 255).astype(np.uint8)


def draw_probabilities(height: int = 8, width: int = 8, num_classes: int = 4, seed: int = 1) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 1.5, (num_classes, height, width))
    return softmax(logits).astype(np.float32)


def all_pairs(crf: DenseCRF, image: np.ndarray, *, on_lattice: bool = False) -> np.ndarray:
    """The weighted sum of both normalized kernels as a matrix; the bilateral one exactly, or as the lattice has it."""
    height, width = image.shape[:2]
    places = np.indices((height, width)).reshape(2, -1).T.astype(float)
    colors = image.reshape(height * width, -1).astype(float)
    features = np.hstack([places[:, ::-1] / crf.bilateral_sigma_px, colors / crf.color_sigma])

    def gaussians(points: np.ndarray) -> np.ndarray:
        return np.exp(-((points[:, None] - points[None]) ** 2).sum(axis=2) / 2)

    def normalized(kernel: np.ndarray) -> np.ndarray:
        sums = kernel.sum(axis=1)
        return kernel / np.sqrt(np.outer(sums, sums))

    if on_lattice:
        lattice = PermutohedralLattice(features.astype(np.float32))
        bilateral = lattice.filter(np.eye(len(features), dtype=np.float32)).astype(float)
    else:
        bilateral = gaussians(features)
    smoothness = gaussians(places / crf.smoothness_sigma_px)
    return crf.bilateral_weight * normalized(bilateral) + crf.smoothness_weight * normalized(smoothness)


def refine_slowly(crf: DenseCRF, kernel: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The mean field, from the sums over all pairs."""
    energy = -np.log(np.maximum(probabilities.reshape(len(probabilities), -1).astype(float), 1e-5))  # K N
    field = softmax(-energy)
    for _ in range(crf.iterations):
        messages = field @ kernel.T
        # Potts: a class pays for what all others are told.
        field = softmax(-energy - (messages.sum(axis=0) - messages))
    return field.reshape(probabilities.shape)


# The mean field


@pytest.mark.parametrize("iterations", [1, 5])
@pytest.mark.parametrize("shape", [(8, 8, 4), (5, 11, 1), (1, 20, 3), (20, 1, 2), (3, 4, 300)])
def test_smoothing_alone_is_the_exact_mean_field(iterations: int, shape: tuple[int, int, int]) -> None:
    crf = DenseCRF(bilateral_weight=0, smoothness_weight=3, smoothness_sigma_px=1.5, iterations=iterations)
    image, probabilities = draw_image(*shape[:2]), draw_probabilities(*shape)
    found, expected = crf.refine(image, probabilities), refine_slowly(crf, all_pairs(crf, image), probabilities)
    # Of a Gaussian in the plane 1e-4 lies outside of a square of eight sigma.
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found - expected).mean() < 1e-4


@pytest.mark.parametrize("crf", [DenseCRF(), AUTHORS_EXAMPLE], ids=["defaults", "example"])
def test_one_iteration_comes_near_to_that_of_exact_gaussians(crf: DenseCRF) -> None:
    crf = replace(crf, iterations=1)
    image, probabilities = draw_image(), draw_probabilities()
    found, expected = crf.refine(image, probabilities), refine_slowly(crf, all_pairs(crf, image), probabilities)
    assert np.abs(expected - probabilities).max() > 0.3  # something happens
    assert np.abs(found - expected).max() < 0.1
    assert np.abs(found - expected).mean() < 0.01


@pytest.mark.parametrize("crf", [DenseCRF(), AUTHORS_EXAMPLE], ids=["defaults", "example"])
def test_all_iterations_are_those_of_the_kernels(crf: DenseCRF) -> None:
    image, probabilities = draw_image(), draw_probabilities()
    expected = refine_slowly(crf, all_pairs(crf, image, on_lattice=True), probabilities)
    np.testing.assert_allclose(crf.refine(image, probabilities), expected, atol=2e-4)


def test_without_kernels_the_clipped_probabilities_stay() -> None:
    probabilities = np.array([[[1.0, 0.0]], [[0.0, 0.3]], [[0.0, 0.7]]], np.float32)
    found = DenseCRF(bilateral_weight=0, smoothness_weight=0).refine(draw_image(1, 2), probabilities)
    clipped = np.maximum(probabilities, 1e-5)
    np.testing.assert_allclose(found, clipped / clipped.sum(axis=0), atol=1e-6)


def test_where_all_is_equal_nothing_changes() -> None:
    found = DenseCRF().refine(draw_image(9, 12), np.full((5, 9, 12), 0.2, np.float32))
    np.testing.assert_allclose(found, 0.2, atol=1e-6)


def test_the_probabilities_of_a_pixel_sum_to_one() -> None:
    found = DenseCRF().refine(draw_image(13, 9), draw_probabilities(13, 9))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    assert found.min() >= 0


def test_classes_in_another_order_give_the_same() -> None:
    image, probabilities = draw_image(), draw_probabilities(num_classes=20)
    order = np.random.default_rng(0).permutation(20)
    found = DenseCRF().refine(image, probabilities[order])
    np.testing.assert_allclose(found, DenseCRF().refine(image, probabilities)[order], atol=1e-6)


def test_the_number_of_cores_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probabilities = draw_image(), draw_probabilities(num_classes=30)
    found = []
    for cores in (1, 3, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.append(DenseCRF().refine(image, probabilities))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)


def test_large_weights_stay_finite() -> None:
    crf = DenseCRF(bilateral_weight=3000, smoothness_weight=2000)
    image, probabilities = draw_image(), draw_probabilities()
    found = crf.refine(image, probabilities)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    assert (found.max(axis=0) > 0.999).mean() > 0.9


# What it is for


def test_a_ragged_border_is_drawn_to_the_edge() -> None:
    image = draw_image(32, 40)
    is_right = np.arange(40) >= 20
    ends = 20 + np.random.default_rng(3).integers(-5, 6, (32, 1))
    predicted_right = np.where(np.arange(40) >= ends, 0.75, 0.25)
    probabilities = np.stack([1 - predicted_right, predicted_right]).astype(np.float32)
    assert (probabilities.argmax(axis=0) == is_right).mean() < 0.95
    refined = AUTHORS_EXAMPLE.refine(image, probabilities).argmax(axis=0)
    np.testing.assert_array_equal(refined, np.broadcast_to(is_right, (32, 40)))


def test_a_speck_goes_where_the_color_is_the_same() -> None:
    image = np.full((21, 21, 3), 90, np.uint8)
    probabilities = np.full((2, 21, 21), [[[0.8]], [[0.2]]], np.float32)
    probabilities[:, 10, 10] = 0.1, 0.9
    assert not DenseCRF().refine(image, probabilities).argmax(axis=0).any()


def test_a_confident_object_of_its_own_color_stays() -> None:
    image = np.full((21, 21, 3), 90, np.uint8)
    image[8:13, 8:13] = 220, 30, 30
    is_object = image[..., 0] == 220
    probabilities = np.stack([np.where(is_object, 0.1, 0.9), np.where(is_object, 0.9, 0.1)]).astype(np.float32)
    np.testing.assert_array_equal(DenseCRF().refine(image, probabilities).argmax(axis=0), is_object)


# Images of all kinds


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("num_classes", [1, 2, 9])
@pytest.mark.parametrize("channels", [1, 2, 4, 12])
def test_small_images_of_any_number_of_channels_are_refined(
    size: tuple[int, int], num_classes: int, channels: int
) -> None:
    probabilities = draw_probabilities(*size, num_classes)
    found = DenseCRF(iterations=2).refine(draw_image(*size, channels), probabilities)
    assert found.shape == probabilities.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_every_channel_counts(channels: int) -> None:
    crf = DenseCRF(color_sigma=20, smoothness_weight=0, iterations=1)
    probabilities = draw_probabilities()
    image = draw_image(channels=channels)
    found = crf.refine(image, probabilities)
    assert np.abs(found - refine_slowly(crf, all_pairs(crf, image), probabilities)).mean() < 0.02
    for channel in range(channels):
        flat = image.copy()
        flat[..., channel] = 90
        assert np.abs(crf.refine(flat, probabilities) - found).max() > 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_constant_image_smooths_everywhere(dtype: type) -> None:
    probabilities = draw_probabilities(10, 10, 2)
    image = np.full((10, 10, 3), 77, dtype)
    found = AUTHORS_EXAMPLE.refine(image, probabilities)
    assert len(np.unique(found.argmax(axis=0))) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_other_types_are_stretched_to_the_range_of_bytes(channels: int) -> None:
    image = draw_image(channels=channels)
    image[0], image[1] = 0, 255
    probabilities = draw_probabilities()
    expected = DenseCRF(color_sigma=13).refine(image, probabilities)
    for same in (image.astype(np.uint16) * 257, image / np.float32(255) - 3, image.astype(np.int32) * 1000 - 7):
        found = DenseCRF(color_sigma=13).refine(same.astype(same.dtype), probabilities)
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_colors_are_stretched_together_but_other_channels_apart() -> None:
    crf = DenseCRF(color_sigma=13)
    probabilities = draw_probabilities()
    for channels, is_same in ((2, True), (3, False)):
        image = draw_image(channels=channels).astype(np.float32)
        faint = image.copy()
        faint[..., 1] *= 0.01
        change = np.abs(crf.refine(faint, probabilities) - crf.refine(image, probabilities)).max()
        assert (change < 1e-3) == is_same


def test_few_bright_pixels_on_black_ground_are_seen() -> None:
    image = np.zeros((64, 64, 1), np.float32)
    image[30:32, 30] = 1e-3
    is_object = image[..., 0] > 0
    probabilities = np.stack([np.where(is_object, 0.1, 0.9), np.where(is_object, 0.9, 0.1)]).astype(np.float32)
    found = replace(AUTHORS_EXAMPLE, smoothness_weight=0).refine(image, probabilities)
    np.testing.assert_array_equal(found.argmax(axis=0), is_object)


@pytest.mark.parametrize("worst", [60000.0, 3e38])
def test_a_hot_pixel_does_not_stretch_all_others(worst: float) -> None:
    image = draw_image(64, 64)
    image[10, :20], image[50, :20] = 0, 255  # half a percent each
    probabilities = draw_probabilities(64, 64)
    expected = DenseCRF(color_sigma=13, iterations=1).refine(image, probabilities)
    hot = image.astype(np.float32) / 100
    hot[0, 0] = worst
    found = DenseCRF(color_sigma=13, iterations=1).refine(hot, probabilities)
    assert np.isfinite(found).all()
    assert np.abs(found - expected)[:, 5:, 5:].max() < 0.02


def test_what_came_is_not_changed() -> None:
    image, probabilities = draw_image().astype(np.float32), draw_probabilities()
    copies = image.copy(), probabilities.copy()
    DenseCRF().refine(image, probabilities)
    np.testing.assert_array_equal(image, copies[0])
    np.testing.assert_array_equal(probabilities, copies[1])


def test_views_of_other_arrays_are_refined() -> None:
    image, probabilities = draw_image(16, 16)[::2, 3:11], draw_probabilities()
    found = DenseCRF().refine(image, np.moveaxis(np.moveaxis(probabilities, 0, 2).copy(), 2, 0))
    np.testing.assert_array_equal(found, DenseCRF().refine(image.copy(), probabilities))


# Settings


def test_the_settings_are_told_in_words() -> None:
    assert DenseCRF().describe() == (
        "a dense CRF of 10 iterations (weight 4 over 67 pixels and 3 of 255 color values and weight 3 over 1 pixels)"
    )
    assert (
        DenseCRF(bilateral_weight=0, iterations=1).describe() == "a dense CRF of 1 iteration (weight 3 over 1 pixels)"
    )
    assert "without kernels" in DenseCRF(bilateral_weight=0, smoothness_weight=0).describe()


@pytest.mark.parametrize("name", ["bilateral_weight", "smoothness_weight"])
@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_weights_below_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, but 0 or more is needed; 0 leaves"):
        DenseCRF(**{name: value})


@pytest.mark.parametrize("name", ["bilateral_sigma_px", "color_sigma", "smoothness_sigma_px"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_sigmas_of_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}, but it is a width above 0"):
        DenseCRF(**{name: value})


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations is 0, but 1 or more are needed"):
        DenseCRF(iterations=0)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="the image is 8 x 9, but the probabilities are 8 x 8; resize the prob"):
        DenseCRF().refine(draw_image(8, 9), draw_probabilities(8, 8))


@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(worst: float) -> None:
    image = draw_image().astype(np.float32)
    image[3, 4, 1] = worst
    with pytest.raises(ValueError, match="the image holds values that are not finite"):
        DenseCRF().refine(image, draw_probabilities())


@pytest.mark.parametrize("change", ["logits", "negative", "nan"])
def test_what_is_no_probability_is_refused(change: str) -> None:
    probabilities = draw_probabilities()
    if change == "logits":
        probabilities = np.log(probabilities)
    elif change == "negative":
        probabilities[:2, 3, 3] = -0.5, probabilities[:2, 3, 3].sum() + 0.5
    else:
        probabilities[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="sum to 1 are needed; take the softmax of logits first"):
        DenseCRF().refine(draw_image(), probabilities)
