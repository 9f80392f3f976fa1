"""CE-Net: a residual encoder and a decoder, and between them dilated convolutions and pooling that add context.

Paper: Gu et al., CE-Net: Context Encoder Network for 2D Medical Image Segmentation, IEEE TMI 2019,
https://arxiv.org/abs/1903.02740, figure 1.

**Differs from the paper**:
- the branches of the dense atrous convolution share their convolutions, and those of the multi-kernel pooling their
  1 x 1 convolution, as in the authors' code;
- a pooling window shrinks to the map where the map is smaller: that is below 192 pixels a side;
- the encoder may be another network with strides of 4, 8, 16 and 32.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.max_pooling import max_pool
from segwright.layers.resize import check_sides, resize
from segwright.types import Paper

WINDOWS = (2, 3, 5, 6)  # sides of the pooling windows in cells


class DAC(nn.Module):
    """Dense atrous convolution: four branches, which see 3, 7, 9 and 19 cells a side, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.rate3 = nn.Conv2d(channels, channels, 3, padding=3, dilation=3)
        self.rate5 = nn.Conv2d(channels, channels, 3, padding=5, dilation=5)
        self.pixel = nn.Conv2d(channels, channels, 1)
        self.activation1, self.activation2, self.activation3, self.activation4 = (nn.ReLU() for _ in range(4))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Input plus the rectified branches."""
        near = self.rate1(x)
        far = self.rate3(near)
        branch1 = self.activation1(near)
        branch2 = self.activation2(self.pixel(self.rate3(x)))
        branch3 = self.activation3(self.pixel(far))
        branch4 = self.activation4(self.pixel(self.rate5(far)))
        result: Tensor = x + branch1 + branch2 + branch3 + branch4
        return result


class RMP(nn.Module):
    """Residual multi-kernel pooling: maxima in windows of four sizes, one channel each, in front of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pixel = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+4 H W"]:
        """Pool, compress, enlarge, join."""
        size = x.shape[-2:]
        context = []
        for window in WINDOWS:
            pooled = max_pool(x, window)  # B C H/window W/window
            context.append(resize(self.pixel(pooled), size))  # B 1 H W
        return torch.cat([*context, x], dim=1)  # B C+4 H W


def _decoder_block(in_channels: int, out_channels: int) -> nn.Sequential:
    channels = in_channels // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, out_channels, 1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CENet(nn.Module):
    """The network of figure 1.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with strides of 4, 8, 16 and 32.
        weights: Weights of the encoder, as `TimmEncoder` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self, in_channels: int, num_classes: int, *, encoder: str = "resnet34", weights: Weights = "auto"
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, in_channels, [4, 8, 16, 32], weights=weights)
        width1, width2, width3, width4 = self.encoder.channels
        self.dac = DAC(width4)
        self.rmp = RMP(width4)
        self.decoder4 = _decoder_block(width4 + len(WINDOWS), width3)
        self.decoder3 = _decoder_block(width3, width2)
        self.decoder2 = _decoder_block(width2, width1)
        self.decoder1 = _decoder_block(width1, width1)
        self.head = nn.Sequential(
            nn.ConvTranspose2d(width1, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, num_classes, 3, padding=1),
        )
        for part in (self.dac, self.rmp, self.decoder4, self.decoder3, self.decoder2, self.decoder1, self.head):
            initialize_convolutions(part)
        initialize_classifier(self.head[-1])  # type: ignore[arg-type] # the last is a convolution

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "CENet")
        e1, e2, e3, e4 = self.encoder(image)  # B 64 H/4 W/4 to B 512 H/32 W/32
        x = self.rmp(self.dac(e4))  # B 516 H/32 W/32
        x = self.decoder4(x) + e3  # B 256 H/16 W/16
        x = self.decoder3(x) + e2  # B 128 H/8 W/8
        x = self.decoder2(x) + e1  # B 64 H/4 W/4
        x = self.decoder1(x)  # B 64 H/2 W/2
        logits: Tensor = self.head(x)  # B K H W
        return logits


NAME = "CE-Net"
PAPER = Paper(
    "Gu et al.",
    "CE-Net: Context Encoder Network for 2D Medical Image Segmentation",
    "IEEE TMI",
    2019,
    "https://arxiv.org/abs/1903.02740",
)
VARIANTS: dict[str, dict[str, Any]] = {"CE-Net": {"encoder": "resnet34"}}
PARAMETERS = {("CE-Net", 3, 1): 29_003_093}
"""As in the authors' code."""

build = CENet
