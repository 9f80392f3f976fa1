"""A watch over the gradients of a network's stages: says where they vanish, explode or are no longer numbers."""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segwright.training.sharding import own_share

MOST_STAGES = 12
"""As many as a person reads at a glance."""

VANISHED_BELOW = 1e-5
"""Share of the usual ratio of gradient to weights at which a stage hardly learns."""

EXPLODED_ABOVE = 100.0
"""How many times its running median the norm of all gradients may be."""

VANISHED_ROWS = 5
EXPLODED_ROWS = 3
"""Rows of the log in a row after which a word is said; one odd batch is no news."""

MEDIAN_ROWS = 100
"""Rows that the running median looks back on."""

_Path = tuple[str, ...]


class StageNorms(NamedTuple):
    """Euclidean norms over the trainable parameters of a stage; a gradient that is missing counts as 0.

    Of parameters that are spread over processes they are those of this process's share.
    """

    gradient: float
    weight: float

    @property
    def ratio(self) -> float:
        """Gradient over weights; infinite where the weights are all 0, as those of a new layer may be."""
        if self.gradient == 0:
            return 0.0
        return self.gradient / self.weight if self.weight > 0 else math.inf


@dataclass
class GradientWatch:
    """Looks at the gradients whenever a row of the log is due, and tells what is wrong once for each stage.

    A stage's gradient has vanished if its ratio to the weights is at most `VANISHED_BELOW` of the third quartile of
    those stages that have any gradient. This does not change with the scale of the loss, and, unlike the median, the
    quartile still stands for a stage that learns when the gradient fades from stage to stage through half the network.
    """

    _faint_rows: Counter[str] = field(init=False, default_factory=Counter)
    _faint: set[str] = field(init=False, default_factory=set)
    _totals: deque[float] = field(init=False, default_factory=lambda: deque(maxlen=MEDIAN_ROWS))
    _large_rows: int = field(init=False, default=0)
    _has_exploded: bool = field(init=False, default=False)
    _broken: set[str] = field(init=False, default_factory=set)

    def observe(self, network: nn.Module) -> list[str]:
        """What has gone wrong since the last call, one sentence each; usually nothing.

        Call it after the backward pass, before gradients are clipped or cleared.

        Raises:
            ValueError: If no parameter has a gradient.
        """
        norms = stage_norms(network)
        broken = [name for name, stage in norms.items() if not math.isfinite(stage.gradient)]
        if broken:
            return self._tell_broken(broken)
        return self._tell_vanished(norms) + self._tell_exploded(norms)

    @staticmethod
    def first_broken(network: nn.Module) -> str | None:
        """The first stage, in the order of definition, with a weight or gradient that is not finite; None if none."""
        stages = stage_parameters(network)
        tensors = {
            name: [
                own_share(tensor.detach())
                for weight in weights
                for tensor in (weight, weight.grad)
                if tensor is not None
            ]
            for name, weights in stages.items()
        }
        # The largest absolute value; a sum of squares would overflow before its terms do.
        largest = torch._foreach_norm([tensor for stage in tensors.values() for tensor in stage], math.inf)
        values = iter(torch.stack(largest).tolist())
        for name, stage in tensors.items():
            if not all(math.isfinite(value) for value in islice(values, len(stage))):
                return name
        return None

    def _tell_broken(self, broken: list[str]) -> list[str]:
        new = [name for name in broken if name not in self._broken]
        self._broken.update(new)
        if not new:
            return []
        return [
            f"gradients are not finite in {_join(new)}; backward comes to {new[-1]} first; lower optimizer.lr, or set "
            "train.precision=fp32"
        ]

    def _tell_vanished(self, norms: dict[str, StageNorms]) -> list[str]:
        limit = VANISHED_BELOW * _third_quartile(stage.ratio for stage in norms.values())
        for name, stage in norms.items():
            self._faint_rows[name] = self._faint_rows[name] + 1 if stage.ratio <= limit else 0
        new = [name for name in norms if self._faint_rows[name] >= VANISHED_ROWS and name not in self._faint]
        self._faint.update(new)
        if not new:
            return []
        return [
            f"hardly any gradient reaches {_join(new)}: in {VANISHED_ROWS} rows of the log it was at most "
            f"{VANISHED_BELOW:g} of what other stages get, relative to the weights; check that the loss depends on it, "
            "or add normalization or skip connections"
        ]

    def _tell_exploded(self, norms: dict[str, StageNorms]) -> list[str]:
        total = math.hypot(*(stage.gradient for stage in norms.values()))
        usual = median(self._totals) if len(self._totals) >= EXPLODED_ROWS else math.inf
        self._large_rows = self._large_rows + 1 if total > EXPLODED_ABOVE * usual else 0
        if total > 0:  # a batch of void alone says nothing about the usual norm
            self._totals.append(total)
        if self._large_rows < EXPLODED_ROWS or self._has_exploded:
            return []
        self._has_exploded = True
        largest = max(norms, key=lambda name: norms[name].gradient)
        return [
            f"gradients explode: their norm is {total:.3g}, and in {EXPLODED_ROWS} rows of the log it was above "
            f"{EXPLODED_ABOVE:g} times its median of {usual:.3g}, mostly in {largest}; lower optimizer.lr or "
            "train.clip_norm"
        ]


def stage_norms(network: nn.Module) -> dict[str, StageNorms]:
    """Norms of the gradient and of the weights of each stage that has a trainable parameter.

    Raises:
        ValueError: If no parameter has a gradient.
    """
    stages = {
        name: [weight for weight in weights if weight.requires_grad]
        for name, weights in stage_parameters(network).items()
    }
    stages = {name: weights for name, weights in stages.items() if weights}
    gradients = {
        name: [weight.grad for weight in weights if weight.grad is not None] for name, weights in stages.items()
    }
    if not any(gradients.values()):
        raise ValueError("no parameter has a gradient; look at them after backward and before zero_grad")
    tensors = [
        own_share(tensor.detach()) for part in (gradients, stages) for stage in part.values() for tensor in stage
    ]
    norms = iter(torch.stack(torch._foreach_norm(tensors)).tolist())  # one wait for the device
    gradient_norms = {name: math.hypot(*islice(norms, len(stage))) for name, stage in gradients.items()}
    return {name: StageNorms(gradient_norms[name], math.hypot(*islice(norms, len(stages[name])))) for name in stages}


def stage_parameters(network: nn.Module) -> dict[str, list[Tensor]]:
    """Parameters of a network in at most `MOST_STAGES` stages, in the order of definition.

    The stages are the parts into which the names of the parameters first branch. Each of them, from the first to the
    last, gives way to its own parts if all then still fit. If there are too many to begin with, as in a plain row of
    layers, neighbors are joined.

    Returns:
        Parameters by stage: its name in the network, or "name to name" where stages were joined.
    """
    parameters: dict[_Path, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        module = tuple(name.split(".")[:-1])
        # A parameter of the network itself has no module to be named after.
        parameters.setdefault(module or (name,), []).append(parameter)
    coarse = _branches(list(parameters))
    stages: list[list[_Path]] = []
    for index, stage in enumerate(coarse):
        finer = _branches(stage)
        num_others = len(stages) + len(coarse) - index - 1
        stages += finer if num_others + len(finer) <= MOST_STAGES else [stage]
    size = max(1, math.ceil(len(stages) / MOST_STAGES))
    joined = [stages[start : start + size] for start in range(0, len(stages), size)]
    return {_name(row): [weight for stage in row for path in stage for weight in parameters[path]] for row in joined}


def _name(row: Sequence[Sequence[_Path]]) -> str:
    first, last = (".".join(_shared(stage)) for stage in (row[0], row[-1]))
    return first if len(row) == 1 else f"{first} to {last}"


def _branches(paths: Sequence[_Path]) -> list[list[_Path]]:
    """Paths by the first name in which they differ."""
    depth = len(_shared(paths)) + 1
    branches: dict[_Path, list[_Path]] = {}
    for path in paths:
        branches.setdefault(path[:depth], []).append(path)
    return list(branches.values())


def _shared(paths: Sequence[_Path]) -> list[str]:
    """Names with which all paths begin."""
    levels = zip(*paths, strict=False)  # to the end of the shortest
    return [names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels)]


def _third_quartile(ratios: Iterable[float]) -> float:
    """Of the ratios that are positive and finite, counted from below, so that it is not the largest; 0 without any."""
    usable = sorted(ratio for ratio in ratios if 0 < ratio < math.inf)
    return usable[3 * (len(usable) - 1) // 4] if usable else 0.0


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
