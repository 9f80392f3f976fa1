"""Tests of predicting images of any size."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segwright.data.encoding import MaskEncoding
from segwright.inference.cleanup import CleanUp
from segwright.inference.description import Description, Tiling
from segwright.inference.segmenter import Segmenter
from segwright.inference.tiles import predict_image, tile_starts
from segwright.types import Classes


class PixelNetwork(nn.Module):
    """Decides each pixel by its own value, so that tiling can change nothing: class 1 where channel 0 is high."""

    stride = 8

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert image.shape[-1] % self.stride == 0
        assert image.shape[-2] % self.stride == 0
        return torch.stack([-image[:, 0], image[:, 0]], dim=1)


def pixel_segmenter(whole_pixels: int, tile: int = 64, overlap: int = 16) -> Segmenter:
    description = Description(
        network="ddrnet",
        arguments={},
        classes=Classes(("low", "high"), ((0, 0, 0), (255, 255, 255))),
        encoding=MaskEncoding("index", (0, 1)),
        in_channels=1,
        dtype="uint8",
        mean=(127.5,),
        std=(60.0,),
        tiling=Tiling(whole_pixels, tile, overlap),
    )
    return Segmenter(PixelNetwork(), description).eval()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 1)).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (63, 65), (64, 64), (131, 257), (200, 90)])
@pytest.mark.parametrize("whole_pixels", [0, 10**9])
def test_any_size_gives_each_pixel_its_class(size: tuple[int, int], whole_pixels: int) -> None:
    image = noise(*size)
    got = predict_image(pixel_segmenter(whole_pixels), image, precision="fp32").mask
    np.testing.assert_array_equal(got, (image[..., 0] > 127).astype(np.uint8))
    assert got.dtype == np.uint8


@pytest.mark.parametrize("whole_pixels", [0, 10**9])
def test_probabilities_are_those_of_the_network_and_sum_to_one(whole_pixels: int) -> None:
    image = noise(100, 140)
    got = predict_image(pixel_segmenter(whole_pixels), image, probabilities=True, precision="fp32").probabilities
    assert got is not None
    value = (image[..., 0].astype(np.float64) - 127.5) / 60
    np.testing.assert_allclose(got[1], 1 / (1 + np.exp(-2 * value)), atol=1e-5)
    np.testing.assert_allclose(got.sum(axis=0), 1, atol=1e-5)


@given(st.integers(1, 400), st.integers(1, 20), st.integers(0, 12), st.sampled_from([1, 8, 32]))
def test_tiles_cover_everything_and_overlap_enough(
    cells: int, tile_cells: int, overlap_cells: int, stride: int
) -> None:
    length, tile, overlap = cells * stride, tile_cells * stride, min(overlap_cells, tile_cells - 1) * stride
    starts, size = tile_starts(length, tile, overlap, stride)
    assert starts[0] == 0
    assert starts[-1] + size == length
    assert all(start % stride == 0 for start in starts)
    for left, right in itertools.pairwise(starts):
        assert left < right <= left + size - min(overlap, size - stride)


def test_a_large_image_predicted_in_tiles_agrees_with_the_whole(tiny_segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 255, (320, 320, 3)).astype(np.uint8)
    whole = predict_image(tiny_segmenter, image, precision="fp32").mask
    tiny_segmenter.description = replace(tiny_segmenter.description, tiling=Tiling(0, 256, 128))
    tiled = predict_image(tiny_segmenter, image, precision="fp32").mask
    assert np.mean(whole == tiled) > 0.9


def test_one_channel_may_come_without_its_axis() -> None:
    image = noise(20, 30)
    segmenter = pixel_segmenter(10**9)
    np.testing.assert_array_equal(predict_image(segmenter, image).mask, predict_image(segmenter, image[..., 0]).mask)


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
        predict_image(pixel_segmenter(10**9), image)


def test_a_mask_is_cleaned_up_as_the_description_says() -> None:
    image = np.zeros((40, 40, 1), np.uint8)
    image[10:30, 10:30], image[3, 3] = 255, 255
    segmenter = pixel_segmenter(10**9)
    assert predict_image(segmenter, image, precision="fp32").mask[3, 3] == 1
    segmenter.description = replace(segmenter.description, cleanup=CleanUp(min_pixels=5))
    again = replace(segmenter.description, cleanup=CleanUp())
    assert Description.from_dict(segmenter.description.to_dict()) == segmenter.description != again
    mask = predict_image(segmenter, image, precision="fp32").mask
    assert mask[3, 3] == 0
    assert mask.sum() == 400
