"""DeepLabv3+: atrous spatial pyramid pooling on a dilated encoder, and a small decoder that sharpens the borders.

Paper: Chen, Zhu, Papandreou, Schroff and Adam, Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018, https://arxiv.org/abs/1802.02611, figure 2.

**Differs from the paper**:
- the encoder is any classification network that timm can dilate, without multi-grid, instead of aligned Xception;
- batch normalization and ReLU follow the pointwise half of a separable convolution only (so does
  segmentation_models_pytorch, whose parameter counts are met; its decoder has one of the two convolutions after
  the pooling instead of after the join);
- maps are enlarged with `align_corners=False`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import TimmEncoder, Weights
from segwright.layers.convolution import ConvNormReLU, initialize_convolutions
from segwright.layers.resize import check_sides, resize, resize_logits


def _separable(in_channels: int, out_channels: int, rate: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=rate, dilation=rate, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, ConvNormReLU(in_channels, out_channels, 1))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one pixel, three rates and the whole image, side by side.

    Args:
        in_channels: Channels of the encoder's last map.
        channels: Channels of each branch and of the result.
        rates: Dilations of the three 3 x 3 branches in cells.
        dropout: Share of the values of the result that are dropped in training.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.pixel = ConvNormReLU(in_channels, channels, 1)
        self.atrous = nn.ModuleList(_separable(in_channels, channels, rate) for rate in rates)
        self.image_pooling = ConvNormReLU(in_channels, channels, 1)
        self.project = ConvNormReLU((2 + len(rates)) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Branches, joined and projected."""
        pooled = self.image_pooling(x.mean(dim=(2, 3), keepdim=True))  # B D 1 1
        branches = [self.pixel(x), *(branch(x) for branch in self.atrous), pooled.expand(-1, -1, *x.shape[-2:])]
        result: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))  # B D H W
        return result


class DeepLabV3Plus(nn.Module):
    """The network of figure 2.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with a stride of 4 that timm can dilate.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        output_stride: Stride of the encoder's last map; at 8 the rates of the pyramid double.
        channels: Width of the pyramid and of the decoder.
        dropout: Share of the values of the pyramid's result that are dropped in training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet34",
        weights: Weights = "auto",
        output_stride: Literal[8, 16] = 16,
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = TimmEncoder(
            encoder, in_channels, [4, output_stride], output_stride=output_stride, weights=weights
        )
        low_channels, high_channels = self.encoder.channels
        rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
        self.aspp = ASPP(high_channels, channels, rates, dropout)
        self.low_level = ConvNormReLU(low_channels, 48, 1)
        self.decoder = nn.Sequential(_separable(channels + 48, channels), _separable(channels, channels))
        self.head = nn.Conv2d(channels, num_classes, 1)
        for part in (self.aspp, self.low_level, self.decoder):
            initialize_convolutions(part)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "DeepLabV3Plus")
        low, high = self.encoder(image)  # B C1 H/4 W/4 and B C2 H/16 W/16 (H/8 W/8 at output stride 8)
        pyramid = resize(self.aspp(high), low.shape[-2:])  # B D H/4 W/4
        joined = torch.cat([pyramid, self.low_level(low)], dim=1)  # B D+48 H/4 W/4
        return resize_logits(self.head(self.decoder(joined)), image.shape[-2:])  # B K H W


VARIANTS: dict[str, dict[str, Any]] = {
    "ResNet-34": {"encoder": "resnet34"},
    "ResNet-50": {"encoder": "resnet50"},
    "ResNet-101": {"encoder": "resnet101"},
}
PARAMETERS = {"ResNet-34": 22_442_597, "ResNet-50": 26_682_725, "ResNet-101": 45_674_853}
"""Parameters with 3 channels and 21 classes, of segmentation_models_pytorch."""

build = DeepLabV3Plus
