"""How far a score could be from the truth, because the images that measured it are a sample."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float64, Int64

_MOST_CELLS = 1 << 22  # numbers in any temporary array: 32 MiB of float64


def bootstrap_interval(
    confusions: Int64[np.ndarray, "N K K"],
    statistic: Callable[[Int64[np.ndarray, "R K K"]], Float64[np.ndarray, "R *T"]],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, "*T"], Float64[np.ndarray, "*T"]]:
    """Percentile bootstrap interval of a score over images, not over pixels: pixels of one image are not independent.

    Each resample draws as many images as there are, with replacement; its confusion matrix is the sum of theirs. A
    class that a resample lacks has no score there and is left out of its own interval.

    Args:
        confusions: One confusion matrix an image.
        statistic: A score of `segwright.metrics.confusion`, such as `mean_iou` or `intersection_over_union`.
        level: Share of the resamples that lie inside, in (0, 1).
        resamples: Number of resamples R; with 2000, another seed moves the ends by a few hundredths of the width.
        seed: The same seed gives the same interval.

    Returns:
        Low and high end, each in the shape that `statistic` gives one matrix. NaN where there is only one image, which
        says nothing about others, and for a class that no resample has.

    Raises:
        ValueError: If there is no image, or `level` is not between 0 and 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but the share of resamples inside the interval is between 0 and 1")
    if len(confusions) == 0:
        raise ValueError("no confusion matrix came, but an interval needs those of two or more images")
    if len(confusions) == 1:
        unknown = np.full(statistic(confusions).shape[1:], np.nan)
        return unknown, unknown.copy()
    scores = np.concatenate([statistic(sums) for sums in _resampled_sums(confusions, resamples, seed)])
    return _quantile(scores, (1 - level) / 2), _quantile(scores, (1 + level) / 2)


def _resampled_sums(
    confusions: Int64[np.ndarray, "N K K"], resamples: int, seed: int
) -> Iterator[Int64[np.ndarray, "R K K"]]:
    """Yields the summed matrices of all resamples, in parts that fit in memory."""
    num_images, num_classes = len(confusions), confusions.shape[-1]
    flat = confusions.reshape(num_images, -1)
    used = np.flatnonzero(flat.any(axis=0))  # most pairs of classes are never confused when K is large
    generator = np.random.default_rng(seed)
    rows = max(1, _MOST_CELLS // max(num_images, num_classes**2))
    block = max(1, _MOST_CELLS // max(1, len(used)))
    for start in range(0, resamples, rows):
        part = min(rows, resamples - start)
        # The product runs in float64: BLAS has no integers, and sums below 2^53 are exact.
        weights = generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=part).astype(np.float64)
        sums = np.zeros((part, len(used)))
        for first in range(0, num_images, block):
            images = slice(first, first + block)
            sums += weights[:, images] @ flat[images, used].astype(np.float64)
        full = np.zeros((part, num_classes**2), np.int64)
        full[:, used] = sums
        yield full.reshape(part, num_classes, num_classes)


def _quantile(scores: Float64[np.ndarray, "R *T"], share: float) -> Float64[np.ndarray, "*T"]:
    """Quantile over R of the scores that are numbers; NaN where none is."""
    known = ~np.isnan(scores).all(axis=0)
    # A column without any number would make numpy warn; it is filled, and masked again.
    filled = np.where(known, scores, 0.0)
    return np.where(known, np.nanquantile(filled, share, axis=0), np.nan)
