"""Deep Residual U-Net: a short U-Net whose every step is one residual unit, activation first.

Paper: Zhang, Liu and Wang, Road Extraction by Deep Residual U-Net, IEEE Geoscience and Remote Sensing Letters 2018,
https://arxiv.org/abs/1711.10684; the network is figure 2, its table is table 1, the unit figure 1b.

**Differs from the paper**:
- the sigmoid at the end is left to the loss;
- the shortcut of a unit that changes width or size, as all of them do, is left open and is here that of a ResNet with
  activation first: a 1 x 1 convolution of the raw input, without normalization; both can be chosen;
- the kind of up-sampling is left open and is here the nearest neighbor;
- so is the start, whose weights keep the features from growing with every unit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides
from segwright.types import Paper


class ResidualUnit(nn.Module):
    """Normalization, ReLU, convolution, twice, plus a shortcut (figure 1b).

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        stride: Step of the first convolution and of the shortcut in pixels.
        shortcut: Side of the shortcut's kernel.
        shortcut_norm: Whether batch normalization follows the shortcut.
        is_first: Whether the unit sees the image itself, which is neither normalized nor rectified.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        shortcut: int = 1,
        shortcut_norm: bool = False,
        is_first: bool = False,
    ) -> None:
        super().__init__()
        before = [] if is_first else [nn.BatchNorm2d(in_channels), nn.ReLU()]
        first = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        second = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.path = nn.Sequential(*before, first, nn.BatchNorm2d(out_channels), nn.ReLU(), second)
        projection = nn.Conv2d(in_channels, out_channels, shortcut, stride, padding=shortcut // 2)
        self.shortcut = nn.Sequential(projection)
        if shortcut_norm:
            self.shortcut.append(nn.BatchNorm2d(out_channels))
        initialize_convolutions(self)
        # Nothing normalizes the sum: half of its variance comes either way, so that it does not grow with every unit.
        nn.init.normal_(second.weight, std=(9 * out_channels) ** -0.5)
        nn.init.normal_(projection.weight, std=(2 * shortcut**2 * in_channels) ** -0.5)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Path plus shortcut."""
        result: Tensor = self.path(x) + self.shortcut(x)
        return result


def _join(x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]) -> Float[Tensor, "B C+D 2*H 2*W"]:
    """Double the size and join the encoder's map."""
    return torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1)


class ResidualUNet(nn.Module):
    """The network of figure 2: 15 convolutions, shortcuts not counted.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        widths: Channels of the three steps of the encoder and of the bridge.
        shortcut: Side of the kernel of the shortcuts, 1 or 3.
        shortcut_norm: Whether batch normalization follows the shortcuts.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        shortcut: Literal[1, 3] = 1,
        shortcut_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths has {len(widths)} numbers, but ResidualUNet needs 4: three steps and the bridge")
        unit = partial(ResidualUnit, shortcut=shortcut, shortcut_norm=shortcut_norm)
        fine, middle, coarse, deepest = widths
        self.encoder1 = unit(in_channels, fine, is_first=True)
        self.encoder2 = unit(fine, middle, stride=2)
        self.encoder3 = unit(middle, coarse, stride=2)
        self.bridge = unit(coarse, deepest, stride=2)
        self.decoder3 = unit(deepest + coarse, coarse)
        self.decoder2 = unit(coarse + middle, middle)
        self.decoder1 = unit(middle + fine, fine)
        self.head = nn.Conv2d(fine, num_classes, 1)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "ResidualUNet")
        skip1 = self.encoder1(image)  # B 64 H W
        skip2 = self.encoder2(skip1)  # B 128 H/2 W/2
        skip3 = self.encoder3(skip2)  # B 256 H/4 W/4
        x = self.bridge(skip3)  # B 512 H/8 W/8
        x = self.decoder3(_join(x, skip3))  # B 256 H/4 W/4
        x = self.decoder2(_join(x, skip2))  # B 128 H/2 W/2
        x = self.decoder1(_join(x, skip1))  # B 64 H W
        logits: Tensor = self.head(x)  # B K H W
        return logits


NAME = "Deep Residual U-Net"
PAPER = Paper(
    "Zhang, Liu and Wang",
    "Road Extraction by Deep Residual U-Net",
    "GRSL",
    2018,
    "https://arxiv.org/abs/1711.10684",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "Residual-UNet": {},
    "Residual-UNet-NormalizedShortcut": {"shortcut_norm": True},
    "Residual-UNet-WideShortcut": {"shortcut": 3, "shortcut_norm": True},
}
PARAMETERS = {
    ("Residual-UNet", 3, 1): 8_220_993,
    ("Residual-UNet-NormalizedShortcut", 3, 1): 8_223_809,
    ("Residual-UNet-WideShortcut", 3, 1): 11_665_985,
}
"""The paper says 7.8 million: the 15 convolutions with biases, without normalization and shortcuts, are 7,782,913."""

build = ResidualUNet
