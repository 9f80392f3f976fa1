"""Masks and predictions that look like some: regions with contours, void and errors."""

import numpy as np


def blocks(
    seed: int, num_classes: int, sizes: tuple[int, ...] = (4, 5), side: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """A mask of square blocks, some of them void, and a prediction that is wrong in some and everywhere one pixel off.

    Args:
        seed: The same seed gives the same pair.
        num_classes: Number of classes K.
        sizes: Number of blocks along each axis.
        side: Pixels along each side of a block.
    """
    generator = np.random.default_rng(seed)
    coarse = generator.integers(num_classes, size=sizes)
    wrong = np.where(generator.random(sizes) < 0.8, coarse, generator.integers(num_classes, size=sizes))
    void = generator.random(sizes) < 0.15
    mask, predicted, void = (np.kron(array, np.ones((side,) * len(sizes), int)) for array in (coarse, wrong, void))
    mask[void > 0] = 255
    return mask.astype(np.uint8), np.roll(predicted, 1, axis=0).astype(np.uint8)
