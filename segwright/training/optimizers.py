"""Optimizers by name. Weight decay touches weights of convolutions and linear layers only, never biases or norms."""

from typing import Any

import torch
from torch import nn

from segwright.training.sharding import is_spread


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    # Vectors are biases and the scales and shifts of norms: decaying them only shrinks what BatchNorm restores. Dynamic
    # convolutions have a table of biases.
    trained = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    decayed = [parameter for name, parameter in trained if parameter.ndim > 1 and not name.endswith("bias")]
    plain = [parameter for name, parameter in trained if parameter.ndim <= 1 or name.endswith("bias")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(
    network: nn.Module, lr: float | None = None, weight_decay: float = 0.02, betas: tuple[float, float] = (0.9, 0.99)
) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay; planning fills in the rate.

    Source: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019 (https://arxiv.org/abs/1711.05101).
    """
    return torch.optim.AdamW(_groups(network, weight_decay), lr=_given(lr), betas=betas, fused=True)


def sgd(
    network: nn.Module,
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    nesterov: bool = True,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum; planning fills in the rate."""
    groups = _groups(network, weight_decay)
    # torch's fused kernel does not know weights that are spread over processes; that of AdamW does.
    is_fused = not is_spread(network)
    return torch.optim.SGD(groups, lr=_given(lr), momentum=momentum, nesterov=nesterov, fused=is_fused)


def _given(lr: float | None) -> float:
    assert lr is not None, "planning.plan.complete decides the rate that a recipe leaves open"
    return lr
