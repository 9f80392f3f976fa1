"""Small data and segmenters that tests share."""

import os
from pathlib import Path

import pytest
import torch
from samples import TINY, write_pair

from segwright.data.encoding import MaskEncoding
from segwright.inference.description import Description
from segwright.inference.segmenter import Segmenter, build_network
from segwright.types import Classes

# Tests run side by side; more threads than cores would wait for each other many times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


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
    torch.manual_seed(0)
    arguments = {key: value for key, value in TINY.items() if key != "name"}
    description = Description(
        network="ddrnet",
        arguments=arguments,
        classes=Classes(("background", "thing"), ((0, 0, 0), (255, 0, 0))),
        encoding=MaskEncoding("index", (0, 1)),
        in_channels=3,
        dtype="uint8",
        mean=(100.0, 100.0, 100.0),
        std=(50.0, 50.0, 50.0),
    )
    return Segmenter(build_network(description), description).eval()
