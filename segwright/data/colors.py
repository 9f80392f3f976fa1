"""Colors that can be told apart, for classes that come without."""

from functools import lru_cache

import cv2
import numpy as np

Color = tuple[int, int, int]

_DARK = (32, 32, 32)


def default_colors(num_classes: int) -> tuple[Color, ...]:
    """Visually distinct RGB colors; of two classes, which are background and foreground, the first is dark.

    Each color is the one of a fixed grid that is farthest in Lab space from those before it, so beyond two classes
    color i does not depend on their number.

    Args:
        num_classes: 1 to 255.
    """
    if num_classes == 2:
        return (_DARK, _farthest_colors(1)[0])
    return _farthest_colors(num_classes)


@lru_cache(maxsize=8)
def _farthest_colors(count: int) -> tuple[Color, ...]:
    levels = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # 729 3
    lab = cv2.cvtColor((grid[None] / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    is_readable = (lab[:, 0] > 30) & (lab[:, 0] < 92)  # neither lost in black nor in white
    grid, lab = grid[is_readable], lab[is_readable]
    chosen = [int(np.square(grid - np.array([255, 128, 0])).sum(axis=1).argmin())]
    distance = np.full(len(grid), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return tuple((int(r), int(g), int(b)) for r, g, b in grid[chosen])
