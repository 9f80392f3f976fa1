"""Small data that tests write."""

from pathlib import Path

import cv2
import numpy as np
import torch

from segwright.data.encoding import MaskEncoding
from segwright.inference.description import Description
from segwright.inference.predictor import Predictor
from segwright.inference.segmenter import Segmenter, build_network
from segwright.runtimes.torch import TorchEngine
from segwright.types import Classes

TINY = {"name": "ddrnet", "width": 4, "head_channels": 8, "pyramid_channels": 8}


def write_pair(root: Path, split: str, name: str, seed: int, size: tuple[int, int] = (64, 64)) -> None:
    """A noisy picture of a bright rectangle and the mask of that rectangle (0 and 1)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    top, left = rng.integers(4, size[0] // 2), rng.integers(4, size[1] // 2)
    mask[top : top + size[0] // 3, left : left + size[1] // 3] = 1
    image = rng.normal(90, 20, (*size, 3)) + 90 * mask[..., None]
    for kind, pixels in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", mask)):
        folder = root / kind / split
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{name}.png"), pixels)


def make_tiny_segmenter() -> Segmenter:
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


def ready(segmenter: Segmenter, precision: str = "auto") -> Predictor:
    """A segmenter on PyTorch."""
    return Predictor(TorchEngine(segmenter, precision=precision))
