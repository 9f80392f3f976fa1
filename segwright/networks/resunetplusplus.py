"""ResUNet++: a residual U-Net with gated channels, pyramid pooling as bridge and head, and attention in the decoder.

Paper: Jha et al., ResUNet++: An Advanced Architecture for Medical Image Segmentation, ISM 2019,
https://arxiv.org/abs/1911.07067, figure 1.

**Differs from the paper** (all but the first as in the authors' code, whose parameter count is met):
- the sigmoid at the end is left to the loss;
- squeeze-and-excitation comes at the end of each residual unit, in the decoder too, and narrows eightfold;
- the branches of the pyramid are summed, and one more 1 x 1 convolution follows;
- attention has no sigmoid: the gate is a map of any sign, as wide as the map that it weights;
- all convolutions have a bias, also those before a normalization, which cancels it.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.attention import SqueezeExcitation
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides
from segwright.types import Paper


def _norm_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1))


class ResidualUnit(nn.Module):
    """Two convolutions plus a shortcut, then a gate over the channels.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Step of the first convolution and of the shortcut in pixels.
        is_stem: Whether the unit sees the image itself, which is neither normalized nor rectified.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, is_stem: bool = False) -> None:
        super().__init__()
        before = [] if is_stem else [nn.BatchNorm2d(in_channels), nn.ReLU()]
        self.path = nn.Sequential(
            *before,
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
            *_norm_convolution(out_channels, out_channels),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
        self.squeeze_excitation = SqueezeExcitation(out_channels, reduction=8, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Path plus shortcut, gated."""
        result: Tensor = self.squeeze_excitation(self.path(x) + self.shortcut(x))
        return result


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: the sum of four 3 x 3 convolutions with wider and wider gaps."""

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int] = (1, 6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate), nn.BatchNorm2d(channels))
            for rate in rates
        )
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Branches, summed and projected."""
        first, *others = [branch(x) for branch in self.branches]
        result: Tensor = self.project(sum(others, start=first))  # B D H W
        return result


class Attention(nn.Module):
    """Weights a map of the decoder by itself and by the encoder's map of twice the size.

    Args:
        skip_channels: Channels of the encoder's map.
        channels: Channels of the map that is weighted.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.skip = _norm_convolution(skip_channels, channels).append(nn.MaxPool2d(2))
        self.own = _norm_convolution(channels, channels)
        self.gate = _norm_convolution(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]) -> Float[Tensor, "B C H W"]:
        """The deeper map, not the encoder's, times the gate."""
        gate: Tensor = self.gate(self.skip(skip) + self.own(x))  # B C H W
        return gate * x


class DecoderStep(nn.Module):
    """Attention, twice the size, the encoder's map beside it, and a residual unit."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.attention = Attention(skip_channels, in_channels)
        self.unit = ResidualUnit(in_channels + skip_channels, out_channels)

    def forward(self, x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]) -> Float[Tensor, "B E 2*H 2*W"]:
        """Weight, enlarge, join, filter."""
        x = F.interpolate(self.attention(x, skip), scale_factor=2.0)  # B C 2H 2W
        result: Tensor = self.unit(torch.cat([x, skip], dim=1))  # B E 2H 2W
        return result


class ResUNetPlusPlus(nn.Module):
    """The network of figure 1.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        widths: Channels of the stem, of the three steps of the encoder, and of the bridge.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(self, in_channels: int, num_classes: int, *, widths: Sequence[int] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        if len(widths) != 5:
            raise ValueError(
                f"widths has {len(widths)} numbers, but ResUNetPlusPlus needs 5: stem, three steps and bridge"
            )
        width1, width2, width3, width4, width5 = widths
        self.stem = ResidualUnit(in_channels, width1, is_stem=True)
        self.encoder2 = ResidualUnit(width1, width2, stride=2)
        self.encoder3 = ResidualUnit(width2, width3, stride=2)
        self.encoder4 = ResidualUnit(width3, width4, stride=2)
        self.bridge = ASPP(width4, width5)
        self.decoder3 = DecoderStep(width5, width3, width4)
        self.decoder2 = DecoderStep(width4, width2, width3)
        self.decoder1 = DecoderStep(width3, width1, width2)
        self.aspp = ASPP(width2, width1)
        self.head = nn.Conv2d(width1, num_classes, 1)
        initialize_convolutions(self)
        for pyramid in (self.bridge, self.aspp):  # a sum without ReLU: the result has the variance of one branch
            nn.init.normal_(pyramid.project.weight, std=(len(pyramid.branches) * pyramid.project.in_channels) ** -0.5)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "ResUNetPlusPlus")
        skip1 = self.stem(image)  # B 16 H W
        skip2 = self.encoder2(skip1)  # B 32 H/2 W/2
        skip3 = self.encoder3(skip2)  # B 64 H/4 W/4
        x = self.bridge(self.encoder4(skip3))  # B 256 H/8 W/8
        x = self.decoder3(x, skip3)  # B 128 H/4 W/4
        x = self.decoder2(x, skip2)  # B 64 H/2 W/2
        x = self.decoder1(x, skip1)  # B 32 H W
        logits: Tensor = self.head(self.aspp(x))  # B K H W
        return logits


NAME = "ResUNet++"
PAPER = Paper(
    "Jha et al.",
    "ResUNet++: An Advanced Architecture for Medical Image Segmentation",
    "ISM",
    2019,
    "https://arxiv.org/abs/1911.07067",
)
VARIANTS: dict[str, dict[str, Any]] = {"ResUNetPlusPlus": {}}
PARAMETERS = {("ResUNetPlusPlus", 3, 1): 4_062_993}
"""As in the authors' PyTorch code."""

build = ResUNetPlusPlus
