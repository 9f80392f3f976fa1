"""Exponential moving average of the weights."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of a network whose weights and BatchNorm statistics follow the trained ones, smoothed over steps.

    The window grows with the run: after t steps the decay is (1 + t) / (10 + t), which averages over the last ninth
    of the steps so far, up to `decay`. A run of three minutes and one of three days need no other setting.

    Args:
        network: The network in training; it is copied.
        decay: Largest decay a step, in [0, 1).

    Source: Polyak and Juditsky, 1992; the growing window is TensorFlow's ExponentialMovingAverage with `num_updates`.
    """

    def __init__(self, network: nn.Module, decay: float = 0.9995) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay

    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the weights of `network` after its step number `step`, counted from 1."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averaged, current = [], []
        for mine, theirs in zip(_tensors(self.network), _tensors(network), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                current.append(theirs.detach())
            else:
                mine.copy_(theirs)
        with torch.no_grad():
            torch._foreach_lerp_(averaged, current, weight)


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
