"""Small data that tests write."""

from pathlib import Path

import cv2
import numpy as np

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
