"""How far a score could be from the truth, because the images that measured it are a sample."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped

Statistic = Callable[[Shaped[np.ndarray, "R *C"]], Float64[np.ndarray, "R *T"]]
"""Scores of many sets at once, from the summed counts of each: one row a set."""

_MOST_CELLS = 1 << 22  # numbers in any temporary array: 32 MiB of float64


def bootstrap_interval(
    counts: Shaped[np.ndarray, "N *C"],
    statistic: Statistic,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Float64[np.ndarray, "*T"], Float64[np.ndarray, "*T"]]:
    """Percentile bootstrap interval of a score over images, not over pixels: pixels of one image are not independent.

    Each resample draws as many images as there are, with replacement; its counts are the sum of theirs. A class that a
    resample lacks has no score there and is left out of its own interval.

    Args:
        counts: What a metric counted on each image, such as one confusion matrix an image.
        statistic: A score of the summed counts, such as `metrics.confusion.mean_iou`.
        level: Share of the resamples that lie inside, in (0, 1).
        resamples: Number of resamples R; with 2000, another seed moves the ends by a few hundredths of the width.
        seed: The same seed gives the same interval.

    Returns:
        Low and high end, each in the shape that `statistic` gives one set. NaN where there is only one image, which
        says nothing about others, and for a class that no resample has.

    Raises:
        ValueError: If there is no image, or `level` is not between 0 and 1.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, but the share of resamples inside the interval is between 0 and 1")
    if len(counts) == 0:
        raise ValueError("no image was counted, but an interval needs two or more images")
    if len(counts) == 1:
        unknown = np.full(statistic(counts).shape[1:], np.nan)
        return unknown, unknown.copy()

    def draw(generator: np.random.Generator, size: int) -> Float64[np.ndarray, "R N"]:
        return generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=size).astype(np.float64)

    scores = np.concatenate([statistic(sums) for sums in _weighted_sums(counts, draw, resamples, seed)])
    return _quantile(scores, (1 - level) / 2), _quantile(scores, (1 + level) / 2)


@dataclass(frozen=True)
class Score:
    """A score of a whole set.

    Attributes:
        value: One number, or one a class; NaN where it is not defined.
        low: Low end of its 95 % interval, in the shape of `value`; NaN where there is none.
        high: High end.
        lower_is_better: Whether it is a distance or an error.
        is_distance: Whether it is a length; otherwise a share in [0, 1].
    """

    value: Float64[np.ndarray, "*T"]
    low: Float64[np.ndarray, "*T"]
    high: Float64[np.ndarray, "*T"]
    lower_is_better: bool = False
    is_distance: bool = False


@dataclass(frozen=True)
class Difference:
    """Score of a second segmenter minus that of a first one on the same images.

    Attributes:
        value: Score of the second minus score of the first.
        low: Low end of the 95 % bootstrap interval over images; NaN if there is only one image.
        high: High end.
        p_value: Two-sided; how often chance alone gives a difference at least as large.
    """

    value: float
    low: float
    high: float
    p_value: float


def paired_difference(
    first: Shaped[np.ndarray, "N *C"],
    second: Shaped[np.ndarray, "N *C"],
    statistic: Callable[[Shaped[np.ndarray, "R *C"]], Float64[np.ndarray, "R"]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compare two segmenters by a score of the whole set, image by image.

    The interval resamples images, each with the counts of both. The p-value swaps the two segmenters on a random half
    of the images: if they were equally good, that would change nothing but chance.

    Args:
        first: What a metric counted on each image for one segmenter.
        second: The same for another one, images in the same order.
        statistic: One score a set.
        resamples: Of the interval and of the test; the smallest p-value is 1 / (resamples + 1).
        seed: The same seed gives the same result.

    Raises:
        ValueError: If the two are not of the same images.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 13.3 and 15.2.
    """
    if first.shape != second.shape:
        raise ValueError(f"counts are {first.shape} and {second.shape}, but a pair needs the same images and classes")
    pairs = np.stack([first, second], axis=1)  # N 2 *C

    def gain(sums: Shaped[np.ndarray, "R 2 *C"]) -> Float64[np.ndarray, "R"]:
        difference: Float64[np.ndarray, "R"] = statistic(sums[:, 1]) - statistic(sums[:, 0])
        return difference

    def draw(generator: np.random.Generator, size: int) -> Float64[np.ndarray, "R N"]:
        return generator.integers(2, size=(size, len(first))).astype(np.float64)

    value = float(gain(pairs.sum(axis=0, keepdims=True))[0])
    low, high = bootstrap_interval(pairs, gain, resamples=resamples, seed=seed)
    # An image of weight 1 changes sides: its difference moves from the second sum to the first.
    swaps = _weighted_sums(second - first, draw, resamples, seed)
    total_first, total_second = first.sum(axis=0), second.sum(axis=0)
    chance = np.concatenate([statistic(total_second - moved) - statistic(total_first + moved) for moved in swaps])
    # Sums in another order differ in their last digits; a tie counts as at least as large, and so does what is unknown.
    smaller = np.abs(chance) < abs(value) * (1 - 1e-9) - 1e-12
    at_least = np.count_nonzero(~smaller)
    return Difference(value, float(low), float(high), (1 + at_least) / (1 + resamples))


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, raised so that all of them together err as rarely as one would.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _weighted_sums(
    counts: Shaped[np.ndarray, "N *C"],
    draw: Callable[[np.random.Generator, int], Float64[np.ndarray, "R N"]],
    resamples: int,
    seed: int,
) -> Iterator[Shaped[np.ndarray, "R *C"]]:
    """Yields sums of the counts with random weights of the images, in parts that fit in memory."""
    num_images, flat = len(counts), counts.reshape(len(counts), -1)
    used = np.flatnonzero(flat.any(axis=0))  # most pairs of classes are never confused when K is large
    generator = np.random.default_rng(seed)
    rows = max(1, _MOST_CELLS // max(num_images, flat.shape[1]))
    block = max(1, _MOST_CELLS // max(1, len(used)))
    for start in range(0, resamples, rows):
        part = min(rows, resamples - start)
        weights = draw(generator, part)
        # The product runs in float64: BLAS has no integers, and sums below 2^53 are exact.
        sums = np.zeros((part, len(used)))
        for first in range(0, num_images, block):
            images = slice(first, first + block)
            sums += weights[:, images] @ flat[images, used].astype(np.float64)
        full = np.zeros((part, flat.shape[1]), counts.dtype)
        full[:, used] = sums
        yield full.reshape(part, *counts.shape[1:])


def _quantile(scores: Float64[np.ndarray, "R *T"], share: float) -> Float64[np.ndarray, "*T"]:
    """Quantile over R of the scores that are numbers; NaN where none is."""
    known = ~np.isnan(scores).all(axis=0)
    # A column without any number would make numpy warn; it is filled, and masked again.
    filled = np.where(known, scores, 0.0)
    return np.where(known, np.nanquantile(filled, share, axis=0), np.nan)
