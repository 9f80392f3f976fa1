"""Tests of where tiles lie."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segwright.inference.grid import cut_axis

axes = st.integers(1, 3000), st.integers(1, 600), st.integers(0, 400), st.sampled_from([1, 8, 32])


@given(*axes, st.sampled_from([0, 16, 64]))
def test_what_is_kept_covers_each_pixel_once_or_twice(
    length: int, tile: int, overlap: int, stride: int, margin: int
) -> None:
    tiles = cut_axis(length, tile, overlap, stride=stride, margin=margin)
    count = np.zeros(length, int)
    for first, last in tiles.kept:
        count[first:last] += 1
    assert count.min() == 1
    assert count.max() <= (1 if margin else 2)
    owned = [range(*tiles.own(index)) for index in range(len(tiles))]
    assert list(itertools.chain(*owned)) == list(range(length))
    assert all(start % stride == 0 for start in tiles.starts)
    assert tiles.starts[0] == 0
    assert tiles.ends[-1] == length


@given(*axes)
def test_weights_of_neighbors_sum_to_one(length: int, tile: int, overlap: int, stride: int) -> None:
    tiles = cut_axis(length, tile, overlap, stride=stride)
    for index, (first, second) in enumerate(tiles.ramps):
        assert len(first) == len(second) == tiles.shared(index)
        np.testing.assert_allclose(first + second, 1, atol=1e-6)
        assert min([*first, *second], default=1) >= 0


@given(st.integers(1, 3000), st.integers(1, 600), st.integers(0, 300), st.sampled_from([1, 8, 32]))
def test_neighbors_overlap_as_much_as_is_asked(length: int, tile: int, overlap: int, stride: int) -> None:
    tiles = cut_axis(length, tile, overlap, stride=stride)
    side = max(tile // stride, 1) * stride
    for left, right in itertools.pairwise(range(len(tiles))):
        assert tiles.ends[left] - tiles.starts[right] >= min(overlap, side - stride)


@given(st.integers(1, 3000), st.integers(1, 400), st.sampled_from([8, 32]), st.sampled_from([32, 96]))
def test_tiles_that_are_cut_keep_their_margin(length: int, tile: int, stride: int, margin: int) -> None:
    tiles = cut_axis(length, tile, 0, stride=stride, margin=margin)
    for index, (first, last) in enumerate(tiles.kept):
        assert index == 0 or first - tiles.starts[index] >= margin
        assert index == len(tiles) - 1 or tiles.ends[index] - last >= margin


def test_a_short_axis_is_one_tile() -> None:
    tiles = cut_axis(100, 128, 32, stride=32)
    assert (tiles.starts, tiles.ends, tiles.kept) == ((0,), (100,), ((0, 100),))


def test_weights_are_those_of_gaussians_of_a_twelfth_of_the_tile() -> None:
    tiles = cut_axis(96, 64, 32, stride=32)
    position = np.arange(32, 64)
    bells = [np.exp(-0.5 * ((position - center) * 12 / 64) ** 2) for center in (31.5, 63.5)]
    np.testing.assert_allclose(tiles.ramps[0][0], bells[0] / sum(bells), rtol=1e-5)


@pytest.mark.parametrize("overlap", [0, 32, 40, 63])
def test_large_overlaps_still_meet_in_pairs_only(overlap: int) -> None:
    tiles = cut_axis(640, 64, overlap, stride=8)
    for index in range(len(tiles) - 2):
        assert tiles.kept[index][1] <= tiles.starts[index + 2]
