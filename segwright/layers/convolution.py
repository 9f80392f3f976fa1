"""Convolution, batch normalization and ReLU: the block that most networks are made of."""

import math

from jaxtyping import Float
from torch import Tensor, nn


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch normalization, ReLU; keeps the size at stride 1.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Side of the kernel, odd.
        stride: Step of the kernel in pixels.
        dilation: Distance between the taps of the kernel in pixels.
        groups: Groups of channels that do not see each other; `in_channels` makes it depthwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Filter, normalize, rectify."""
        result: Tensor = self.activation(self.norm(self.convolution(x)))
        return result


def initialize_convolutions(network: nn.Module) -> None:
    """Draw all convolution weights from N(0, 2 / fan-out) and set their biases to zero.

    The fan-out counts one group only, so that depthwise convolutions keep the variance too.

    Source: He et al., Delving Deep into Rectifiers, ICCV 2015, eq. 14 (https://arxiv.org/abs/1502.01852).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialize_classifier(convolution: nn.Conv2d | nn.Conv3d) -> None:
    """Draw the weights of a network's last convolution from U(-a, a) with a = 1 / sqrt(fan-in); biases are zero.

    The logits then start with a deviation of about a half, and the cross-entropy near ln K. Weights as wide as those
    of `initialize_convolutions` start it three times higher and make the first steps a matter of rounding; N(0, 0.01)
    as in DeepLab learns more slowly (benchmarks/classifier_start.csv).
    """
    fan_in = convolution.in_channels * math.prod(convolution.kernel_size) / convolution.groups
    nn.init.uniform_(convolution.weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
