"""The learning-rate range test: the rate at which the loss falls fastest, found in a hundred steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, median

SMOOTHED_SHARE = 0.1
"""Share of the sweep over which losses are averaged: 0.7 of a decade of rates by default. A fixed decay of 0.98, which
is common, averages over 50 steps: half of the default sweep."""

DIVERGED_AT = 4.0
"""The sweep ends when the smoothed loss is this many times its best."""

LEAST_FALL = 2.0
"""Fall of the smoothed loss, in units of the usual change from one step to the next, that is not noise."""

FEWEST_STEPS = 20


@dataclass(frozen=True)
class RateSweep:
    """What a sweep saw, one entry a step.

    Attributes:
        rates: Learning rates, in geometric progression.
        losses: Losses.
        smoothed: Exponential running means of the losses, corrected for their start.
        suggestion: Rate at which the losses fall fastest over its logarithm, before the smoothed loss is at its
            minimum. The rate at which training diverges is several times higher.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float


def find_rate(
    step: Callable[[float], float], *, lowest: float = 1e-7, highest: float = 1.0, steps: int = 100
) -> RateSweep:
    """Train with a rate that grows from step to step, until the loss diverges, and see where it fell fastest.

    The steps change the weights: the caller keeps a copy and puts it back. The smoothed loss decides when to stop and
    where the minimum is. It lags behind the losses, so the descent is that of a line through the losses themselves, of
    a tenth of the sweep before and a tenth after each step.

    Args:
        step: Does one step of training at a learning rate and returns the loss of its batch.
        lowest: Learning rate of the first step, so low that nothing is learned.
        highest: Learning rate of the last step, should the loss not diverge before.
        steps: Number of steps, 20 or more.

    Raises:
        ValueError: If the rates or the number of steps are out of range, or if the loss never fell
            or soon was no longer finite.

    Source: Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3
    (https://arxiv.org/abs/1506.01186), where accuracy is read by eye over a rate that grows in a straight line.
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"the rates go from {lowest:g} to {highest:g}, but they must be positive and grow")
    if steps < FEWEST_STEPS:
        raise ValueError(f"the sweep has {steps} steps, but its mean needs at least {FEWEST_STEPS}; try 100")
    window = round(SMOOTHED_SHARE * steps)
    rates = [lowest * (highest / lowest) ** (index / (steps - 1)) for index in range(steps)]
    losses: list[float] = []
    smoothed: list[float] = []
    total = weight = 0.0
    for rate in rates:
        loss = step(rate)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        total += (loss - total) / window
        weight += (1 - weight) / window  # corrects the mean for its start from 0
        smoothed.append(total / weight)
        best = min(smoothed[window:], default=math.inf)
        if smoothed[-1] - best > (DIVERGED_AT - 1) * abs(best):  # a difference, because some losses can be negative
            break
    done = len(losses)
    return RateSweep(tuple(rates[:done]), tuple(losses), tuple(smoothed), _suggest(rates, losses, smoothed, window))


def _suggest(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], window: int) -> float:
    """Rate in the middle of the steepest line through 2 `window` + 1 losses before the minimum of the smoothed loss."""
    if len(losses) <= window:
        raise ValueError(
            f"the loss was no longer finite after {len(losses)} steps of the learning-rate sweep; start at a lower rate"
        )
    best = min(range(window, len(smoothed)), key=smoothed.__getitem__)
    fall = smoothed[window] - smoothed[best]
    noise = median(abs(after - before) for before, after in pairwise(losses[: best + 1]))
    if fall <= LEAST_FALL * noise:
        raise ValueError(
            f"the loss never fell by more than its noise between the learning rates {rates[0]:.1e} and "
            f"{rates[len(losses) - 1]:.1e}: smoothed, it went from {smoothed[window]:.4g} to {smoothed[best]:.4g} at "
            "best; start lower if it rose, end higher if it stood still"
        )
    places = [math.log(rate) for rate in rates]

    def slope(center: int) -> float:
        part = slice(center - window, min(center + window, best) + 1)
        return linear_regression(places[part], losses[part]).slope

    return rates[min(range(window, max(window, best - window) + 1), key=slope)]
