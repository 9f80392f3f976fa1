"""FC-ResNet behind a small FCN that learns to normalize the image, both trained as one network.

Paper: Drozdzal et al., Learning Normalized Inputs for Iterative Estimation in Medical Image Segmentation, Medical Image
Analysis 2018, https://arxiv.org/abs/1702.05174.

**Differs from the paper**, whose tables of layers we could not read:
- the FC-ResNet follows the first paper of the same authors, The Importance of Skip Connections in Biomedical Image
  Segmentation, 2016, https://arxiv.org/abs/1608.04117, and the code of one of them; that one simple block stands before
  and after the bottlenecks, the widths, and that long skip connections are sums, are from memory;
- the pre-processor has low capacity and a single channel; that it is a U-Net of four steps, a quarter as wide as the
  original and without normalization, is our reading;
- a step up fits the channels, then doubles the size, which gives the same sums as the other order for a quarter of the
  work; dropout in the last block of a step therefore drops the coarse values;
- convolutions in front of a normalization have no bias, which it would cancel.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper


def _two_convolutions(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
    )


class Preprocessor(nn.Module):
    """The FCN that normalizes: a narrow U-Net whose only output channel is the new image.

    Args:
        in_channels: Channels of the image.
        widths: Channels at the image's size, half of it and so on.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_two_convolutions(*pair) for pair in pairwise((in_channels, *widths)))
        self.pool = nn.MaxPool2d(2)
        steps = list(pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for below, width in steps)
        self.up = nn.ModuleList(_two_convolutions(2 * width, width) for _, width in steps)
        self.output = nn.Conv2d(widths[0], 1, 1)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
        """The normalized image."""
        x = self.down[0](image)  # B 16 H W
        skips = []
        for convolutions in self.down[1:]:
            skips.append(x)
            x = convolutions(self.pool(x))  # B 2C h/2 w/2
        for enlarge, convolutions in zip(self.enlarge, self.up, strict=True):
            x = convolutions(torch.cat([skips.pop(), enlarge(x)], dim=1))  # B C 2h 2w
        normalized: Tensor = self.output(x)  # B 1 H W
        return normalized


def _norm_relu_convolution(in_channels: int, channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), convolution)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 and a shortcut, normalized and rectified before each convolution; a fourth as wide inside."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        width = out_channels // 4
        self.path = nn.Sequential(
            *_norm_relu_convolution(in_channels, width, 1, stride),
            *_norm_relu_convolution(width, width, 3),
            *_norm_relu_convolution(width, out_channels, 1),
            nn.Dropout(dropout),
        )
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Path plus shortcut."""
        result: Tensor = self.path(x) + self.shortcut(x)
        return result


class SimpleBlock(nn.Module):
    """One 3 x 3 convolution and a shortcut; halves the size or keeps it."""

    def __init__(self, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()
        self.pool = nn.MaxPool2d(stride)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Path plus every second pixel, or every pixel."""
        path = self.dropout(self.convolution(self.pool(self.activation(self.norm(x)))))  # B C h w
        result: Tensor = path + x[..., :: self.stride, :: self.stride]
        return result


def _bottlenecks(in_channels: int, channels: int, repetitions: int, stride: int, dropout: float) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride, dropout)
    return nn.Sequential(first, *(Bottleneck(channels, channels, 1, dropout) for _ in range(repetitions - 1)))


class Merge(nn.Module):
    """Long skip connection: fits the channels from below, doubles the size, adds the map of the way down."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.fit = nn.Sequential()
        if in_channels != channels:
            self.fit = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False))
        self.enlarge = nn.Upsample(scale_factor=2)

    def forward(self, x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]) -> Float[Tensor, "B D 2*H 2*W"]:
        """Sum of both."""
        result: Tensor = self.enlarge(self.fit(x)) + skip  # B D 2H 2W
        return result


def _initialize(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # What shortcuts and long skip connections take in has not been rectified, which would have halved it.
            is_linear = "shortcut" in name or "fit" in name
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if is_linear else "relu")


class FCResNet(nn.Module):
    """Pre-processor, then the steps Down 1 to 5, Across, Up 1 to 5 and the classifier.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        preprocessor: Whether to have the FCN in front; without it, it is the FC-ResNet of 2016.
        preprocessor_width: Channels of the FCN at the image's size.
        width: Channels of the FC-ResNet at the image's size.
        repetitions: Bottlenecks of Down 3, 4 and 5, which are those of Up 3, 2 and 1 too, and of Across.
        dropout: Share of the values of each block that are dropped in training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        preprocessor: bool = True,
        preprocessor_width: int = 16,
        width: int = 32,
        repetitions: Sequence[int] = (3, 8, 10, 3),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(repetitions) != 4:
            raise ValueError(
                f"repetitions has {len(repetitions)} numbers, but FCResNet needs 4: Down 3, 4, 5 and Across"
            )
        third, fourth, fifth, across = repetitions
        fcn_widths = [preprocessor_width * 2**step for step in range(5)]
        self.preprocessor = Preprocessor(in_channels, fcn_widths) if preprocessor else nn.Identity()
        self.down1 = nn.Conv2d(1 if preprocessor else in_channels, width, 3, padding=1, bias=False)
        self.down2 = SimpleBlock(width, 2, dropout)
        self.down3 = _bottlenecks(width, 4 * width, third, 2, dropout)
        self.down4 = _bottlenecks(4 * width, 8 * width, fourth, 2, dropout)
        self.down5 = _bottlenecks(8 * width, 16 * width, fifth, 2, dropout)
        self.across = _bottlenecks(16 * width, 32 * width, across, 2, dropout)
        self.merge1, self.up1 = Merge(32 * width, 16 * width), _bottlenecks(16 * width, 16 * width, fifth, 1, dropout)
        self.merge2, self.up2 = Merge(16 * width, 8 * width), _bottlenecks(8 * width, 8 * width, fourth, 1, dropout)
        self.merge3, self.up3 = Merge(8 * width, 4 * width), _bottlenecks(4 * width, 4 * width, third, 1, dropout)
        self.merge4, self.up4 = Merge(4 * width, width), SimpleBlock(width, 1, dropout)
        self.merge5, self.up5 = Merge(width, width), _norm_relu_convolution(width, width, 3)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        _initialize(self)
        initialize_classifier(self.classifier)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "FCResNet")
        down1 = self.down1(self.preprocessor(image))  # B 32 H W
        down2 = self.down2(down1)  # B 32 H/2 W/2
        down3 = self.down3(down2)  # B 128 H/4 W/4
        down4 = self.down4(down3)  # B 256 H/8 W/8
        down5 = self.down5(down4)  # B 512 H/16 W/16
        x = self.across(down5)  # B 1024 H/32 W/32
        x = self.up1(self.merge1(x, down5))  # B 512 H/16 W/16
        x = self.up2(self.merge2(x, down4))  # B 256 H/8 W/8
        x = self.up3(self.merge3(x, down3))  # B 128 H/4 W/4
        x = self.up4(self.merge4(x, down2))  # B 32 H/2 W/2
        x = self.up5(self.merge5(x, down1))  # B 32 H W
        logits: Tensor = self.classifier(x)  # B K H W
        return logits


NAME = "FC-ResNet"
PAPER = Paper(
    "Drozdzal et al.",
    "Learning Normalized Inputs for Iterative Estimation in Medical Image Segmentation",
    "MedIA",
    2018,
    "https://arxiv.org/abs/1702.05174",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "FC-ResNet-with-preprocessor": {"preprocessor": True},
    "FC-ResNet-without-preprocessor": {"preprocessor": False},
}
PARAMETERS = {
    ("FC-ResNet-with-preprocessor", 1, 1): 13_362_322,
    ("FC-ResNet-without-preprocessor", 1, 1): 11_421_505,
}
"""As the code of one of the authors has, less 30,240 biases that the normalizations cancel, and a U-Net in front."""

build = FCResNet
