"""Separable convolution: filter each channel by itself, then mix the channels pixel by pixel."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class SeparableConvolution(nn.Module):
    """Depthwise 3 x 3 and pointwise 1 x 1 convolution without bias; keeps the size at stride 1.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Step of the depthwise kernel in pixels.
        dilation: Distance between the taps of the depthwise kernel in pixels: one number, or height and width.
        norm_between: Whether normalization (and ReLU, if there are any) follows the depthwise convolution as well.
        activation: Whether ReLU follows each normalization.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        dilation: int | Sequence[int] = 1,
        norm_between: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        rates = (dilation, dilation) if isinstance(dilation, int) else (dilation[0], dilation[1])
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, padding=rates, dilation=rates, groups=in_channels, bias=False
        )
        self.depthwise_norm = nn.BatchNorm2d(in_channels) if norm_between else nn.Identity()
        self.depthwise_activation = nn.ReLU() if norm_between and activation else nn.Identity()
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(out_channels)
        self.pointwise_activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Filter, then mix."""
        x = self.depthwise_activation(self.depthwise_norm(self.depthwise(x)))  # B C h w
        result: Tensor = self.pointwise_activation(self.pointwise_norm(self.pointwise(x)))  # B D h w
        return result
