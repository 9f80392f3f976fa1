"""DDRNet: two branches, at 1/8 and down to 1/64, that exchange features twice, and pyramid pooling at the end.

Paper: Hong, Pan, Sun and Jia, Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road
Scenes, 2021, https://arxiv.org/abs/2101.06085; the network is figure 4, the pyramid pooling (DAPPM) figure 5, the
widths table 1.

**Differs from the paper**:
- DDRNet-39, which splits layer 3 in two, is not built;
- a side has to be a multiple of 32 only: the map at 1/64 rounds up;
- the auxiliary logits stay at 1/8 and the mask is shrunk to them, where the authors enlarge the logits: a training
  step is a fifth shorter;
- the convolutions of the stem have no bias, which the normalization would cancel (64 parameters fewer in slim).
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.types import Paper


def _convolution_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _norm_convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), convolution)


class ResidualBlock(nn.Module):
    """Sum of a path and a shortcut, without the ReLU that follows: the fusions need the sum itself.

    Args:
        in_channels: Channels that come in.
        channels: Width of the path.
        stride: Step of the path and of the shortcut in pixels.
        expansion: 1 for the basic block, 2 for the bottleneck, whose output is twice as wide as its path.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, expansion: int = 1) -> None:
        super().__init__()
        out_channels = expansion * channels
        if expansion == 1:
            self.path = nn.Sequential(
                ConvNormReLU(in_channels, channels, stride=stride), _convolution_norm(channels, channels, 3)
            )
        else:
            self.path = nn.Sequential(
                ConvNormReLU(in_channels, channels, 1),
                ConvNormReLU(channels, channels, stride=stride),
                _convolution_norm(channels, out_channels, 1),
            )
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _convolution_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Path plus shortcut."""
        result: Tensor = self.path(x) + self.shortcut(x)
        return result


def _basic_blocks(in_channels: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(in_channels, channels, stride), nn.ReLU(), ResidualBlock(channels, channels))


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: averages over wider and wider windows, each added to the next (figure 5)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        windows = ((5, 2), (9, 4), (17, 8))  # side and step in cells
        pools = [nn.AvgPool2d(side, step, padding=side // 2) for side, step in windows]
        self.pools = nn.ModuleList([nn.Identity(), *pools, nn.AdaptiveAvgPool2d(1)])
        self.scales = nn.ModuleList(_norm_convolution(in_channels, channels, 1) for _ in self.pools)
        self.processes = nn.ModuleList(_norm_convolution(channels, channels, 3) for _ in range(len(self.pools) - 1))
        self.compression = _norm_convolution(len(self.pools) * channels, out_channels, 1)
        self.shortcut = _norm_convolution(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Pool at five scales, aggregate from fine to coarse, compress."""
        maps = [scale(pool(x)) for pool, scale in zip(self.pools, self.scales, strict=True)]
        levels = [maps[0]]
        for process, pooled in zip(self.processes, maps[1:], strict=True):
            levels.append(process(resize(pooled, x.shape[-2:]) + levels[-1]))  # B channels H W
        result: Tensor = self.compression(torch.cat(levels, dim=1)) + self.shortcut(x)  # B D H W
        return result


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *_norm_convolution(in_channels, channels, 3),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, num_classes, 1),
    )


class DDRNet(nn.Module):
    """The network of figure 4; the defaults are DDRNet-23-slim.

    A trailing underscore marks the high-resolution branch, as in the authors' code.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        width: Channels of the stem, of which the stages have 1 to 16 times as many.
        head_channels: Width of the two heads.
        pyramid_channels: Width of a scale of the pyramid pooling.
        auxiliary_head: Whether to have the head on the high-resolution branch after layer 3, for training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 32,
        head_channels: int = 64,
        pyramid_channels: int = 128,
        auxiliary_head: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNormReLU(in_channels, width, stride=2), ConvNormReLU(width, width, stride=2))
        self.layer1 = _basic_blocks(width, width)
        self.layer2 = _basic_blocks(width, 2 * width, stride=2)
        self.layer3 = _basic_blocks(2 * width, 4 * width, stride=2)
        self.layer3_ = _basic_blocks(2 * width, 2 * width)
        self.layer4 = _basic_blocks(4 * width, 8 * width, stride=2)
        self.layer4_ = _basic_blocks(2 * width, 2 * width)
        self.layer5 = ResidualBlock(8 * width, 8 * width, stride=2, expansion=2)
        self.layer5_ = ResidualBlock(2 * width, 2 * width, expansion=2)
        self.compression3 = _convolution_norm(4 * width, 2 * width, 1)
        self.compression4 = _convolution_norm(8 * width, 2 * width, 1)
        self.down3 = _convolution_norm(2 * width, 4 * width, 3, stride=2)
        self.down4 = nn.Sequential(
            ConvNormReLU(2 * width, 4 * width, stride=2), _convolution_norm(4 * width, 8 * width, 3, stride=2)
        )
        self.pyramid = DAPPM(16 * width, pyramid_channels, 4 * width)
        self.head = _head(4 * width, head_channels, num_classes)
        self.auxiliary_head = _head(2 * width, head_channels, num_classes) if auxiliary_head else None
        self.activations = nn.ModuleDict(
            {name: nn.ReLU() for name in ("1", "2", "3", "3_", "fused3", "fused3_", "4", "4_", "fused4", "fused4_")}
        )
        initialize_convolutions(self)
        for head in (self.head, self.auxiliary_head):
            if head is not None:
                initialize_classifier(head[-1])  # type: ignore[arg-type] # the last is a convolution

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        fused, _ = self._features(image)
        return resize_logits(self.head(fused), image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of the head at the image's size, and of the auxiliary head at an eighth of it."""
        fused, high = self._features(image)
        logits = [resize_logits(self.head(fused), image.shape[-2:])]  # B K H W
        if self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(high))  # B K H/8 W/8
        return logits

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        check_sides(image, self.stride, "DDRNet")
        rectify = self.activations
        x = rectify["1"](self.layer1(self.stem(image)))  # B width H/4 W/4
        x = rectify["2"](self.layer2(x))  # B 2·width H/8 W/8
        size = x.shape[-2:]

        low = self.layer3(x)  # B 4·width H/16 W/16
        high = self.layer3_(x)  # B 2·width H/8 W/8
        up = self.compression3(rectify["3"](low))
        low = low + self.down3(rectify["3_"](high))
        after3 = high = high + resize(up, size)

        low = self.layer4(rectify["fused3"](low))  # B 8·width H/32 W/32
        high = self.layer4_(rectify["fused3_"](high))
        up = self.compression4(rectify["4"](low))
        low = low + self.down4(rectify["4_"](high))
        high = high + resize(up, size)

        high = self.layer5_(rectify["fused4_"](high))  # B 4·width H/8 W/8
        low = self.layer5(rectify["fused4"](low))  # B 16·width H/64 W/64
        return high + resize(self.pyramid(low), size), after3


NAME = "DDRNet"
PAPER = Paper(
    "Hong, Pan, Sun and Jia",
    "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes",
    "arXiv",
    2021,
    "https://arxiv.org/abs/2101.06085",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "DDRNet-23-slim": {"width": 32, "head_channels": 64, "auxiliary_head": False},
    "DDRNet-23": {"width": 64, "head_channels": 128, "auxiliary_head": False},
}
PARAMETERS = {("DDRNet-23-slim", 3, 19): 5_695_923, ("DDRNet-23", 3, 19): 20_148_819}
"""Without the auxiliary head; 5.7 and 20.1 million in table 4 of the paper."""

build = DDRNet
