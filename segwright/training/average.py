"""Averages of the weights over the steps of a run, which are scored and kept in place of the weights themselves."""

import copy
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from segwright.training.sharding import load_module, own_share


class WeightAverage(Protocol):
    """A network that follows the one in training.

    Attributes:
        network: The average, in evaluation mode; moved along with `network.to`.
    """

    network: nn.Module

    def update(self, network: nn.Module, step: int, progress: float) -> None:
        """Take in the weights of `network` after its step number `step`, counted from 1, at `progress` in [0, 1]."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on with the same average."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""


class ExponentialMovingAverage:
    """A copy of a network whose weights and BatchNorm statistics follow the trained ones, smoothed over steps.

    The window grows with the run: after t steps the decay is (1 + t) / (10 + t), which averages over the last ninth
    of the steps so far, up to `decay`. A run of three minutes and one of three days need no other setting.

    Args:
        network: The network in training; it is copied.
        decay: Largest decay a step, in [0, 1).

    Source: Polyak and Juditsky, 1992; the growing window is TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, network: nn.Module, decay: float = 0.9995) -> None:
        self.network = _frozen_copy(network)
        self.decay = decay

    def update(self, network: nn.Module, step: int, progress: float) -> None:
        """Move towards the weights of `network` after its step number `step`, counted from 1."""
        _move(self.network, network, 1 - min(self.decay, (1 + step) / (10 + step)))

    def state_dict(self) -> dict[str, Any]:
        """The weights of the average."""
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        load_module(self.network, state["network"])


class StochasticWeightAverage:
    """The weights themselves until `start`, from then on the equal mean of the weights after each step (SWA).

    n ← n + 1, mean ← mean + (weights - mean) / n.

    The paper takes a snapshot at the end of a cycle or an epoch; here every step is one, so that there is no period to
    choose, and consecutive ones differ less. The paper keeps the learning rate high or cyclic meanwhile; here it is
    the schedule's, and `schedule=cosine schedule.floor=0.3` keeps it up. The paper passes over the training data once
    more for the statistics of BatchNorm; here their running means and variances are averaged over the same steps as
    the weights, which costs nothing but describes the networks of those steps rather than their mean.

    Args:
        network: The network in training; it is copied.
        start: Progress after which steps count, in [0, 1).

    Source: Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018, algorithm 1
        (https://arxiv.org/abs/1803.05407).
    """

    def __init__(self, network: nn.Module, start: float = 0.75) -> None:
        self.network = _frozen_copy(network)
        self.start = start
        self.num_averaged = 0

    def update(self, network: nn.Module, step: int, progress: float) -> None:
        """Take the weights of `network` into the mean, or in its place before `start`."""
        self.num_averaged = self.num_averaged + 1 if progress > self.start else 0
        _move(self.network, network, 1 / max(self.num_averaged, 1))

    def state_dict(self) -> dict[str, Any]:
        """The mean and the number of steps in it."""
        return {"network": self.network.state_dict(), "num_averaged": self.num_averaged}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from what `state_dict` gave."""
        load_module(self.network, state["network"])
        self.num_averaged = state["num_averaged"]


def make_average(name: str, network: nn.Module) -> WeightAverage | None:
    """The average that a recipe names: "ema", "swa", or none for "none"."""
    if name == "none":
        return None
    return ExponentialMovingAverage(network) if name == "ema" else StochasticWeightAverage(network)


def _frozen_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False).eval()


def _move(average: nn.Module, network: nn.Module, share: float) -> None:
    """Move an average by a share of the way to the weights and buffers of a network; 1 makes them equal."""
    averaged, current = [], []
    for mine, theirs in zip(_tensors(average), _tensors(network), strict=True):
        if mine.is_floating_point():
            averaged.append(mine)
            current.append(theirs.detach())
        else:
            mine.copy_(theirs)  # counters have no mean
    with torch.no_grad():
        torch._foreach_lerp_(averaged, current, share)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [own_share(tensor) for tensor in (*network.parameters(), *network.buffers())]
