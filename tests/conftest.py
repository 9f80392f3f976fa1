"""Small data and segmenters that tests share."""

import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from samples import make_tiny_segmenter, write_pair

from segwright.inference.segmenter import Segmenter

# Tests run side by side; more threads than cores would wait for each other many times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
# A machine that is busy with other tests is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: one that comes last would keep one process busy while the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("whole") is None)


@pytest.fixture
def rectangles(tmp_path: Path) -> Path:
    """A data set of six training and three validation pairs."""
    root = tmp_path / "rectangles"
    for number in range(9):
        write_pair(root, "train" if number < 6 else "val", f"{number:02d}", number)
    return root


@pytest.fixture
def tiny_segmenter() -> Segmenter:
    """An untrained segmenter of two classes for 8-bit color images."""
    return make_tiny_segmenter()


@pytest.fixture
def unchecked_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shape checks: torch.export follows networks with sizes that are symbols, which are no integers."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
