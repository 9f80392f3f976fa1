"""Tests of predicting images of any size, tile by tile."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.data.encoding import MaskEncoding
from segwright.inference.cleanup import CleanUp
from segwright.inference.crf import DenseCRF
from segwright.inference.description import Description, Tiling
from segwright.inference.engine import Scores
from segwright.inference.logits import best_class, softmax
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.inference.tiles import cut_grid, predict_bands
from segwright.networks.unet_original import UNet
from segwright.runtimes.torch import TorchEngine
from segwright.types import Classes


class PixelEngine:
    """Decides each pixel by its own value, so that tiling can change nothing: class 1 where channel 0 is high."""

    runtime, margin = "pixels", 0

    def __init__(self, whole_pixels: int = 0, tile: int = 64, overlap: int = 16, *, batch_size: int = 1) -> None:
        self.description = Description(
            network="ddrnet",
            arguments={},
            classes=Classes(("low", "high", "middle"), ((0, 0, 0), (255, 255, 255), (9, 9, 9))),
            encoding=MaskEncoding("index", (0, 1, 2)),
            in_channels=1,
            dtype="uint8",
            mean=(127.5,),
            std=(60.0,),
            tiling=Tiling(whole_pixels, tile, overlap),
        )
        self.stride, self.batch_size = 8, batch_size
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray, /, *, with_logits: bool) -> Scores:
        self.seen.append(images.shape)
        value = (images[..., 0].astype(np.float32) - 127.5) / 60
        logits = np.stack([-value, value, np.full_like(value, 0.1)], axis=1)
        return Scores(logits.argmax(1).astype(np.uint8), logits if with_logits else None)


class PlaceEngine(PixelEngine):
    """Says something else of a pixel in each tile: a ramp over the tile."""

    def __call__(self, images: np.ndarray, /, *, with_logits: bool) -> Scores:
        scores = super().__call__(images, with_logits=True)
        assert scores.logits is not None
        ramp = sum(np.meshgrid(*(np.linspace(-1, 1, side) for side in images.shape[1:-1]), indexing="ij"))
        logits = (scores.logits + np.stack([ramp, -ramp, ramp / 2])).astype(np.float32)
        return Scores(logits.argmax(1).astype(np.uint8), logits if with_logits else None)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 1)).astype(np.uint8)


def join(engine: PixelEngine, image: np.ndarray, **options: int) -> tuple[np.ndarray, np.ndarray]:
    bands = list(predict_bands(engine, image, with_logits=True, **options))
    return np.concatenate([band.mask for band in bands]), np.concatenate([band.logits for band in bands], axis=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (63, 65), (64, 64), (131, 257), (200, 90)])
@pytest.mark.parametrize("whole_pixels", [0, 10**9])
def test_any_size_gives_each_pixel_its_class(size: tuple[int, int], whole_pixels: int) -> None:
    image = noise(*size)
    got = predict_image(PixelEngine(whole_pixels), image).mask
    value = (image[..., 0].astype(float) - 127.5) / 60
    np.testing.assert_array_equal(got, np.stack([-value, value, np.full_like(value, 0.1)]).argmax(0))
    assert got.dtype == np.uint8


@pytest.mark.parametrize("whole_pixels", [0, 10**9])
def test_probabilities_are_those_of_the_network_and_sum_to_one(whole_pixels: int) -> None:
    image = noise(100, 140)
    got = predict_image(PixelEngine(whole_pixels), image, probabilities=True).probabilities
    assert got is not None
    value = (image[..., 0].astype(np.float64) - 127.5) / 60
    powers = np.exp(np.stack([-value, value, np.full_like(value, 0.1)]))
    np.testing.assert_allclose(got, powers / powers.sum(0), atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(0, 30),
    st.sampled_from([1, 3]),
)
def test_the_blend_is_the_weighted_mean_of_all_tiles(size: list[int], tile: int, overlap: int, batch_size: int) -> None:
    engine, image = PlaceEngine(0, tile, overlap, batch_size=batch_size), noise(*size)
    axes = cut_grid(engine, size)
    total, weights = np.zeros((3, *size)), np.zeros(size)
    for index in np.ndindex(*(len(axis) for axis in axes)):
        region = tuple(slice(axis.starts[i], axis.ends[i]) for axis, i in zip(axes, index, strict=True))
        logits = engine(image[region][None], with_logits=True).logits
        assert logits is not None
        weight = np.ones(())
        for axis, i in zip(axes, index, strict=True):
            start, end = axis.starts[i], axis.ends[i]
            bell = np.exp(-72 * ((np.arange(start, end) - (start + end - 1) / 2) / (end - start)) ** 2)
            bell[axis.kept[i][1] - start :] = 0
            weight = weight[..., None] * bell
        total[(slice(None), *region)] += logits[0] * weight
        weights[region] += weight
    mask, found = join(engine, image)
    np.testing.assert_allclose(found, total / weights, atol=1e-4)
    np.testing.assert_array_equal(mask, found.argmax(0))


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(0, 60), st.data())
def test_rows_that_are_done_are_not_given_again(height: int, tile: int, overlap: int, data: st.DataObject) -> None:
    engine, image = PlaceEngine(0, tile, overlap), noise(height, 70)
    mask, logits = join(engine, image)
    done = data.draw(st.integers(0, height - 1))
    engine.seen.clear()
    rest, rest_logits = join(engine, image, rows_done=done)
    np.testing.assert_array_equal(rest, mask[done:])
    np.testing.assert_allclose(rest_logits, logits[:, done:], atol=1e-5)


def test_going_on_computes_one_row_of_tiles_again_at_most() -> None:
    engine, image = PixelEngine(), noise(400, 40)
    rows = len(cut_grid(engine, (400, 40))[0])
    bands = list(predict_bands(engine, image))
    assert len(bands) == rows
    engine.seen.clear()
    list(predict_bands(engine, image, rows_done=bands[4].start))
    assert len(engine.seen) == rows - 4 + 1


def test_no_band_holds_logits_unless_they_are_asked_for() -> None:
    engine = PixelEngine()
    assert all(band.logits is None for band in predict_bands(engine, noise(200, 90)))


def test_tiles_of_one_size_are_computed_together() -> None:
    engine = PixelEngine(batch_size=4)
    predict_image(engine, noise(200, 300))
    assert max(shape[0] for shape in engine.seen) == 4


@pytest.mark.parametrize("depth", [2, 3])
def test_a_network_without_padding_gives_exactly_the_result_of_the_whole(depth: int) -> None:
    torch.manual_seed(0)
    network = UNet(1, 3, width=4, depth=depth).eval()
    description = replace(PixelEngine().description, network="unet_original")
    segmenter = Segmenter(network, description).double().eval()
    segmenter.description = replace(description, tiling=Tiling(10**9))
    image = noise(330, 270)
    whole = predict_image(TorchEngine(segmenter, precision="fp32"), image, probabilities=True)
    segmenter.description = replace(description, tiling=Tiling(0, 128, 16))
    engine = TorchEngine(segmenter, precision="fp32")
    assert len(cut_grid(engine, (330, 270))[0]) > 2
    tiled = predict_image(engine, image, probabilities=True)
    np.testing.assert_array_equal(tiled.mask, whole.mask)
    np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-7)


def test_a_large_image_predicted_in_tiles_agrees_with_the_whole(tiny_segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 255, (320, 320, 3)).astype(np.uint8)
    engine = TorchEngine(tiny_segmenter, precision="fp32")
    whole = predict_image(engine, image).mask
    tiny_segmenter.description = replace(tiny_segmenter.description, tiling=Tiling(0, 256, 128))
    assert np.mean(whole == predict_image(engine, image).mask) > 0.9


def test_one_channel_may_come_without_its_axis() -> None:
    image, engine = noise(20, 30), PixelEngine(10**9)
    np.testing.assert_array_equal(predict_image(engine, image).mask, predict_image(engine, image[..., 0]).mask)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((8, 8, 3), np.uint8), "3 channels, but this segmenter was trained on 1"),
        (np.zeros((8, 8, 1), np.uint16), "uint16 values, but this segmenter was trained on uint8"),
        (np.zeros((0, 8, 1), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 1), np.uint8), "shape"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(image: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        predict_image(PixelEngine(10**9), image)


@pytest.mark.parametrize("whole_pixels", [0, 10**9])
def test_a_mask_is_cleaned_up_as_the_description_says(whole_pixels: int) -> None:
    image = np.zeros((90, 90, 1), np.uint8)
    image[10:30, 10:30], image[70, 70] = 255, 255
    engine = PixelEngine(whole_pixels)
    assert predict_image(engine, image).mask[70, 70] == 1
    engine.description = replace(engine.description, cleanup=CleanUp(min_pixels=5))
    again = replace(engine.description, cleanup=CleanUp())
    assert Description.from_dict(engine.description.to_dict()) == engine.description != again
    mask = predict_image(engine, image).mask
    assert mask[70, 70] == 0
    assert mask.sum() == 400


def test_a_crf_moves_borders_to_edges_and_its_probabilities_are_given() -> None:
    image = np.full((40, 40, 1), 60, np.uint8)
    image[:, 20:] = 200
    image[20, 5] = 140  # a speck that the network takes for another class
    engine = PixelEngine(10**9)
    plain = predict_image(engine, image)
    assert plain.mask[20, 5] != 0
    refined = predict_image(engine, image, crf=DenseCRF(color_sigma=60), probabilities=True)
    assert refined.mask[20, 5] == 0
    assert refined.probabilities is not None
    np.testing.assert_array_equal(refined.mask, refined.probabilities.argmax(0))


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_best_class_is_the_first_of_the_highest(num_classes: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-2, 3, (num_classes, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(best_class(logits), logits.argmax(0))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_is_that_of_torch(scale: float) -> None:
    logits = (scale * np.random.default_rng(0).normal(size=(4, 6, 5))).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), torch.from_numpy(logits).softmax(0).numpy(), atol=1e-6)
