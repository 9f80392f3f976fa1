"""Tests of arrays that are decoded segment by segment."""

import sys

import numpy as np
import pytest

from segwright.data import raster_source
from segwright.data.formats import FormatError
from segwright.data.raster_source import Segments, import_large


class Counted:
    """Segments of an array in memory, which tell how often each was decoded."""

    def __init__(self, shape: tuple[int, ...], lengths: tuple[int, ...]) -> None:
        self.array = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        self.lengths = lengths
        self.decoded: list[tuple[int, ...]] = []
        self.segments = Segments(shape, lengths, self.array.dtype, self._decode)

    def _decode(self, place: tuple[int, ...]) -> np.ndarray:
        self.decoded.append(place)
        return self.array[
            tuple(
                slice(index * length, (index + 1) * length) for index, length in zip(place, self.lengths, strict=True)
            )
        ]

    def walk(self, tile: int, step: int) -> None:
        """Reads overlapping tiles row by row and compares them."""
        for top in range(0, self.array.shape[0] - tile + 1, step):
            for left in range(0, self.array.shape[1] - tile + 1, step):
                region = (slice(top, top + tile), slice(left, left + tile))
                assert np.array_equal(self.segments.read(region), self.array[region])


@pytest.mark.parametrize("lengths", [(7, 90), (16, 16), (100, 90), (5, 3)])
def test_each_segment_is_decoded_once_for_a_row_of_tiles(lengths):
    counted = Counted((30, 90), lengths)

    counted.walk(tile=30, step=20)

    assert len(counted.decoded) == len(set(counted.decoded)) == -(-30 // lengths[0]) * -(-90 // lengths[1])


def test_only_what_a_region_touches_is_decoded():
    counted = Counted((64, 64, 3), (16, 16, 3))

    counted.segments.read((slice(16, 32), slice(31, 33), slice(0, 3)))

    assert sorted(counted.decoded) == [(1, 1, 0), (1, 2, 0)]


def test_what_is_kept_stays_below_the_limit_and_regions_larger_than_it_are_whole(monkeypatch):
    monkeypatch.setattr(raster_source, "CACHE_BYTES", 500)
    counted = Counted((64, 64), (10, 10))

    counted.walk(tile=40, step=8)

    assert len(counted.segments._kept) == 5


def test_the_segments_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(raster_source, "CACHE_BYTES", 200)
    counted = Counted((10, 40), (10, 10))
    for left in (0, 10, 0, 20):
        counted.segments.read((slice(0, 10), slice(left, left + 10)))
    counted.decoded.clear()

    counted.segments.read((slice(0, 10), slice(0, 10)))
    assert counted.decoded == []
    counted.segments.read((slice(0, 10), slice(10, 20)))
    assert counted.decoded == [(0, 1)]


def test_rows_of_tiles_that_exceed_the_cache_do_not_decode_everything_each_time(monkeypatch):
    monkeypatch.setattr(raster_source, "CACHE_BYTES", 900 * 7)
    counted = Counted((100, 90), (10, 90))  # ten strips a tile, seven of which are kept

    counted.walk(tile=100, step=1)
    for left in range(9):
        counted.segments.read((slice(0, 100), slice(left * 10, left * 10 + 10)))

    assert len(counted.decoded) == 10 + 8 * 3


def test_a_segment_larger_than_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(raster_source, "MAX_SEGMENT_BYTES", 100)

    Counted((50, 50), (10, 10))
    with pytest.raises(FormatError, match="pieces of 110 bytes"):
        Counted((50, 50), (11, 10))


def test_a_missing_package_is_one_sentence_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)

    with pytest.raises(FormatError, match=r'reading a \.zarr folder needs .* run pip install "segwright\[large\]"'):
        import_large("zarr", "reading a .zarr folder")
