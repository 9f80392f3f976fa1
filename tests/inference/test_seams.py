"""Tests of what waits between tiles."""

from pathlib import Path

import numpy as np
import pytest

from segwright.inference.seams import Seams


def arrays(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(3, 4 + index % 3, 5)).astype(np.float32) for index in range(count)]


@pytest.mark.parametrize("in_memory_bytes", [0, 700, 10**6])
def test_each_array_comes_back_once(tmp_path: Path, in_memory_bytes: int) -> None:
    kept = arrays(9)
    with Seams(400, tmp_path, in_memory_bytes) as seams:
        for index, array in enumerate(kept):
            seams.put(index, array)
        for index in (4, 0, 8, 3):
            np.testing.assert_array_equal(seams.take(index), kept[index])
            seams.put(index + 100, kept[index] + 1)
        for index in (104, 100, 108, 103):
            np.testing.assert_array_equal(seams.take(index), kept[index - 100] + 1)
        for index in (1, 2, 5, 6, 7):
            np.testing.assert_array_equal(seams.take(index), kept[index])
        assert len(seams) == 0


def test_the_file_is_gone_afterwards(tmp_path: Path) -> None:
    with Seams(400, tmp_path, 0) as seams:
        seams.put(0, arrays(1)[0])
    assert not list(tmp_path.iterdir())


def test_memory_that_is_free_again_is_used_again(tmp_path: Path) -> None:
    first, second = arrays(2)
    with Seams(400, tmp_path, 320) as seams:
        for _ in range(3):
            seams.put(0, first)
            seams.take(0)
        seams.put(1, second)
        assert seams._file is None
