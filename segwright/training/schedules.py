"""Learning-rate schedules: each returns a factor in (0, 1] for a progress in [0, 1] of the whole run.

Progress, not a step count, drives them, so that a run limited by minutes finishes its schedule as one limited by
steps does. Every schedule starts with a linear warm-up over its first `warmup` share.
"""

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def _after_warmup(factor: Schedule, warmup: float) -> Schedule:
    def schedule(progress: float) -> float:
        # A run's first step has progress 0; a rate of exactly 0 would waste it.
        start = max(progress / warmup, 0.01) if progress < warmup else 1.0
        return start * factor(progress)

    if not 0 <= warmup < 1:
        raise ValueError(f"schedule.warmup is {warmup}, but it is a share of the run, at least 0 and below 1; try 0.03")
    return schedule


def poly(power: float = 0.9, warmup: float = 0.03) -> Schedule:
    """(1 - progress) to a power, as DeepLab trains. Source: Chen et al., DeepLab, PAMI 2018, section 4.1."""
    return _after_warmup(lambda progress: (1 - min(progress, 1.0)) ** power, warmup)


def cosine(floor: float = 0.0, warmup: float = 0.03) -> Schedule:
    """Half a cosine from 1 down to `floor`. Source: Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5, one cycle."""
    return _after_warmup(
        lambda progress: floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2, warmup
    )


def step(milestones: Sequence[float] = (0.6, 0.85), gamma: float = 0.1, warmup: float = 0.03) -> Schedule:
    """Multiplied by `gamma` at each milestone, a share of the run."""
    return _after_warmup(lambda progress: gamma ** sum(progress >= milestone for milestone in milestones), warmup)


def one_cycle(peak: float = 0.3, start: float = 0.04) -> Schedule:
    """Cosine from `start` up to 1 at progress `peak`, then cosine down to 0.

    Source: Smith and Topin, Super-Convergence, 2018 (https://arxiv.org/abs/1708.07120), with cosine flanks.
    """

    def schedule(progress: float) -> float:
        if progress < peak:
            return start + (1 - start) * (1 - math.cos(math.pi * progress / peak)) / 2
        return (1 + math.cos(math.pi * (min(progress, 1.0) - peak) / (1 - peak))) / 2

    if not 0 < peak < 1:
        raise ValueError(f"schedule.peak is {peak}, but it is a share of the run between 0 and 1; try 0.3")
    return schedule
