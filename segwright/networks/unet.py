"""U-Net: an encoder, and a decoder that doubles the size step by step and joins the encoder's map of that size.

Paper: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
https://arxiv.org/abs/1505.04597, figure 1.

**Differs from the paper** (the decoder is that of segmentation_models_pytorch, whose weights `convert` reads):
- the encoder is any classification network instead of pairs of convolutions, so there is no map at full size to copy;
- convolutions are padded: nothing is cropped, and the logits have the image's size;
- batch normalization follows each convolution;
- the up-convolution enlarges by nearest neighbor, without a convolution of its own;
- the widths are 256, 128, 64, 32, 16, and the last convolution is 3 x 3;
- the skips can be gated, channel by channel or pixel by pixel.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import encoder_strides, make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.attention import CBAM, SpatialChannelSqueezeExcitation, SqueezeExcitation
from segwright.layers.convolution import ConvNormReLU, initialize_convolutions
from segwright.layers.dynamic_convolution import make_dynamic
from segwright.layers.names import rename
from segwright.layers.resize import check_sides
from segwright.types import Paper

STRIDES = (16, 8, 4, 2, 1)  # of the decoder's maps
SKIP_ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "se": SqueezeExcitation,
    "cbam": CBAM,
    "scse": SpatialChannelSqueezeExcitation,
}


class UpBlock(nn.Module):
    """Up-convolution, copy, and two convolutions: one step of the expansive path.

    Args:
        in_channels: Channels from below.
        skip_channels: Channels of the encoder's map; 0 if there is none.
        out_channels: Channels that go out.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(in_channels + skip_channels, out_channels)
        self.conv2 = ConvNormReLU(out_channels, out_channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"] | None
    ) -> Float[Tensor, "B E 2*H 2*W"]:
        """Double the size, join, convolve."""
        x = F.interpolate(x, scale_factor=2.0)  # B C 2H 2W
        if skip is not None:
            x = torch.cat([x, skip], dim=1)  # B C+D 2H 2W
        result: Tensor = self.conv2(self.conv1(x))  # B E 2H 2W
        return result


class UNet(nn.Module):
    """The network of figure 1 on a classification network.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with a stride of 32; a stride from 2 to 16 that it lacks has no skip.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        decoder_channels: Widths of the decoder at the strides 16, 8, 4, 2 and 1.
        skip_attention: Gate on each skip: none, squeeze-and-excitation ("se"), "cbam", or the former over channels
            and pixels ("scse").
        dynamic_kernels: Kernels that each convolution of the decoder mixes anew for every image; 1 is a convolution.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet34",
        weights: Weights = "auto",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        skip_attention: Literal["none", "se", "cbam", "scse"] = "none",
        dynamic_kernels: int = 1,
    ) -> None:
        super().__init__()
        if len(decoder_channels) != len(STRIDES):
            raise ValueError(f"decoder_channels has {len(decoder_channels)} widths, but UNet needs {len(STRIDES)}")
        skips = [stride for stride in STRIDES[:-1] if stride in encoder_strides(encoder)]
        self.encoder = make_encoder(encoder, in_channels, [32, *skips], weights=weights)
        bottom, *widths = self.encoder.channels
        skip_channels = dict(zip(skips, widths, strict=True))
        self.skip_attention = nn.ModuleList(SKIP_ATTENTION[skip_attention](channels) for channels in widths)
        self.decoder = nn.ModuleList(
            UpBlock(below, skip_channels.get(stride, 0), channels)
            for below, stride, channels in zip((bottom, *decoder_channels), STRIDES, decoder_channels, strict=False)
        )
        self.head = nn.Conv2d(decoder_channels[-1], num_classes, 3, padding=1)
        initialize_convolutions(self.decoder)
        if dynamic_kernels > 1:
            make_dynamic(self.decoder, dynamic_kernels)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "UNet")
        x, *maps = self.encoder(image)  # B C5 H/32 W/32
        gated = (gate(skip) for gate, skip in zip(self.skip_attention, maps, strict=True))
        skips = dict(zip(self.encoder.strides[1:], gated, strict=True))
        for stride, block in zip(STRIDES, self.decoder, strict=True):
            x = block(x, skips.get(stride))  # B D H/stride W/stride
        logits: Tensor = self.head(x)  # B K H W
        return logits


NAME = "U-Net on an encoder"
PAPER = Paper(
    "Ronneberger, Fischer and Brox",
    "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "MICCAI",
    2015,
    "https://arxiv.org/abs/1505.04597",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "UNet-ResNet34": {"encoder": "resnet34"},
    "UNet-ResNet50": {"encoder": "resnet50"},
}
PARAMETERS = {("UNet-ResNet34", 3, 21): 24_439_269, ("UNet-ResNet50", 3, 21): 32_524_005}
"""As in segmentation_models_pytorch."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `Unet` with a ResNet encoder, under the names used here."""
    rules = (
        (r"^encoder\.", "encoder.network."),
        (r"^decoder\.blocks\.(\d)\.conv(\d)\.0\.", r"decoder.\1.conv\2.convolution."),
        (r"^decoder\.blocks\.(\d)\.conv(\d)\.1\.", r"decoder.\1.conv\2.norm."),
        (r"^segmentation_head\.0\.", "head."),
    )
    return rename(state_dict, rules)


build = UNet
