"""Convolutions whose kernel is mixed anew for every image from a few kernels that are learned.

Papers: Chen et al., Dynamic Convolution: Attention over Convolution Kernels, CVPR 2020,
https://arxiv.org/abs/1912.03458, figure 3; Yang et al., CondConv: Conditionally Parameterized Convolutions for
Efficient Inference, NeurIPS 2019, https://arxiv.org/abs/1904.04971, figure 1.

**Differs from the papers**: the temperature falls over a share of the run, where the first paper counts ten epochs; the
routing of CondConv has a hidden layer as that of dynamic convolution has.

The shares come from the average over the whole input: a network that is trained on crops sees other averages on whole
images, so train on crops about as large as the images that follow. No engine can fold or quantize such weights well.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Routing = Literal["softmax", "sigmoid"]

REDUCTION = 4
"""How many times narrower the hidden layer of the routing is."""

HOTTEST = 30.0
"""Temperature at the start of a run; the kernels are then mixed about evenly, so that all of them learn."""

ANNEALING = 0.1
"""Share of a run after which the temperature has fallen to 1."""


class DynamicConvolution(nn.Module):
    """A 2-D convolution with several kernels, mixed by what the whole map shows.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Side of the kernels.
        kernels: How many kernels there are.
        stride: Step of the kernel in pixels.
        padding: Zeros around the map in pixels.
        dilation: Distance between the taps in pixels.
        groups: Groups of channels that do not see each other.
        bias: Whether each kernel has a bias.
        routing: "softmax": shares that sum to 1, with a temperature (dynamic convolution); "sigmoid": weights that
            do not depend on each other (CondConv).
    """

    temperature: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        kernels: int = 4,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        routing: Routing = "softmax",
    ) -> None:
        super().__init__()
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        self.groups, self.routing = groups, routing
        hidden = max(in_channels // REDUCTION, 1)
        self.squeeze = nn.Linear(in_channels, hidden, bias=False)
        self.activation = nn.ReLU()
        self.mix = nn.Linear(hidden, kernels)
        self.weight = nn.Parameter(torch.empty(kernels, out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(kernels, out_channels)) if bias else None
        self.register_buffer("temperature", torch.tensor(HOTTEST if routing == "softmax" else 1.0))
        # Fan-out as in `initialize_convolutions`.
        nn.init.normal_(self.weight, std=math.sqrt(2 * groups / (out_channels * kernel_size**2)))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Mix the kernels of each image, and filter each with its own."""
        batch, channels, height, width = x.shape
        shares = self.route(x)  # B K
        weight = torch.einsum("bk,kdcij->bdcij", shares, self.weight).flatten(0, 1)  # B·D C/groups k k
        bias = None if self.bias is None else (shares @ self.bias).flatten()  # B·D
        # The images of a batch become groups of one image, so that one convolution does all of them.
        folded = x.reshape(1, batch * channels, height, width)
        result = F.conv2d(folded, weight, bias, groups=batch * self.groups, **self.geometry)
        return result.reshape(batch, -1, *result.shape[-2:])  # B D h w

    def route(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Share of each kernel for each image."""
        scores = self.mix(self.activation(self.squeeze(x.mean(dim=(2, 3)))))  # B K
        shares: Tensor = scores.sigmoid() if self.routing == "sigmoid" else (scores / self.temperature).softmax(dim=1)
        return shares

    def anneal(self, progress: float) -> None:
        """Lower the temperature to where it belongs at a progress of the run from 0 to 1."""
        if self.routing == "softmax":
            self.temperature.fill_(max(1.0, HOTTEST - (HOTTEST - 1) * progress / ANNEALING))


def make_dynamic(module: nn.Module, kernels: int, routing: Routing = "softmax") -> None:
    """Replace, in place, every square 2-D convolution inside a module that is larger than 1 x 1 by a dynamic one."""
    for name, child in module.named_children():
        is_square = isinstance(child, nn.Conv2d) and child.kernel_size[0] == child.kernel_size[1] > 1
        if isinstance(child, nn.Conv2d) and is_square:
            size, padding = child.kernel_size[0], child.padding
            assert isinstance(padding, tuple)
            replacement = DynamicConvolution(
                child.in_channels,
                child.out_channels,
                size,
                kernels=kernels,
                stride=child.stride[0],
                padding=padding[0],
                dilation=child.dilation[0],
                groups=child.groups,
                bias=child.bias is not None,
                routing=routing,
            )
            setattr(module, name, replacement)
        else:
            make_dynamic(child, kernels, routing)
