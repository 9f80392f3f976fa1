"""Res-UNet: a U-Net of residual blocks, half as wide, whose skips are added where U-Net joins them.

Paper: it has none of its own. It combines He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition,
CVPR 2016, https://arxiv.org/abs/1512.03385 (the block, figure 2), with Ronneberger, Fischer and Brox, U-Net:
Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015, https://arxiv.org/abs/1505.04597 (the shape,
figure 1).

**Differs from the paper**, that is, from these two:
- the shortcut of a block is a 1 x 1 convolution where the widths differ, without normalization;
- all convolutions have a bias, also those before a normalization, which cancels it;
- five levels of 32 to 512 channels with two residual blocks each, and one block for each step up;
- convolutions are padded, so that nothing is cropped and the logits have the image's size;
- a skip passes a 1 x 1 convolution and, if wanted, a gate over its channels, and is added; no ReLU comes in between;
- in the light form any classification network, such as a MobileNetV3, takes the place of the residual encoder; its
  finest map has half the image's size, so the logits are enlarged at the end.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.attention import SqueezeExcitation
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize_logits
from segwright.types import Paper

LEVELS = 5


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around them; ReLU follows the sum."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Path plus shortcut, rectified."""
        result: Tensor = self.activation(self.path(x) + self.shortcut(x))
        return result


class ResidualEncoder(nn.Module):
    """Levels of two residual blocks, each level at half the size of the one before.

    Args:
        in_channels: Channels of the image.
        widths: Channels of the levels, fine to coarse.

    Attributes:
        channels: The widths.
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.levels = nn.ModuleList()
        before = in_channels
        for number, width in enumerate(widths):
            pool = nn.MaxPool2d(2) if number else nn.Identity()
            self.levels.append(nn.Sequential(pool, ResidualBlock(before, width), ResidualBlock(width, width)))
            before = width

    def forward(self, x: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps of all levels, fine to coarse."""
        maps = []
        for level in self.levels:
            x = level(x)  # B widths[l] H/2^l W/2^l
            maps.append(x)
        return maps


class UpStep(nn.Module):
    """Double the size, add the skip, filter: one step of the decoder.

    Args:
        in_channels: Channels from below.
        channels: Channels of the skip and of the result.
        blocks: Residual blocks after the addition.
        skip_attention: Gate on the skip.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int, skip_attention: Literal["none", "se"]) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.skip = nn.Conv2d(channels, channels, 1)
        self.gate = SqueezeExcitation(channels) if skip_attention == "se" else nn.Identity()
        self.blocks = nn.Sequential(*(ResidualBlock(channels, channels) for _ in range(blocks)))
        initialize_convolutions(self)
        # Half of the sum's variance comes either way, without a ReLU; a pixel of `up` sees one pixel from below.
        nn.init.normal_(self.up.weight, std=(2 * in_channels) ** -0.5)
        nn.init.normal_(self.skip.weight, std=(2 * channels) ** -0.5)

    def forward(self, x: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]) -> Float[Tensor, "B D 2*H 2*W"]:
        """Up-convolution plus skip, then the blocks."""
        result: Tensor = self.blocks(self.up(x) + self.gate(self.skip(skip)))  # B D 2H 2W
        return result


class ResUNet(nn.Module):
    """The residual U-Net with additive skips.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        widths: Channels of the five levels of the residual encoder, fine to coarse; the decoder has the same.
        decoder_blocks: Residual blocks for each step up.
        skip_attention: Gate on each skip: none, or "se" for squeeze-and-excitation.
        encoder: Name of a timm network with the strides 2 to 32 in place of the residual encoder. Its widths, not
            `widths`, are then those of the levels.
        weights: Weights of that encoder, as `TimmEncoder` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 2 ** (LEVELS - 1)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        decoder_blocks: int = 1,
        skip_attention: Literal["none", "se"] = "none",
        encoder: str | None = None,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        if len(widths) != LEVELS:
            raise ValueError(f"widths has {len(widths)} numbers, but ResUNet needs {LEVELS}, one for each level")
        if decoder_blocks < 1:
            raise ValueError(f"decoder_blocks is {decoder_blocks}, but ResUNet needs at least 1 for each step up")
        self.is_light = encoder is not None
        if encoder is not None:
            self.encoder = make_encoder(encoder, in_channels, (2, 4, 8, 16, 32), weights=weights)
            self.stride = 2**LEVELS  # type: ignore[misc] # the class has that of the residual encoder
        else:
            self.encoder = ResidualEncoder(in_channels, widths)
            initialize_convolutions(self.encoder)
        channels = self.encoder.channels
        self.decoder = nn.ModuleList(
            UpStep(channels[level + 1], channels[level], decoder_blocks, skip_attention)
            for level in reversed(range(LEVELS - 1))
        )
        self.head = nn.Conv2d(channels[0], num_classes, 1)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "ResUNet")
        *skips, x = self.encoder(image)  # B 512 H/16 W/16
        for step in self.decoder:
            x = step(x, skips.pop())  # to B 32 H W
        logits: Tensor = self.head(x)  # B K H W, or half the size
        return resize_logits(logits, image.shape[-2:]) if self.is_light else logits


NAME = "Res-UNet"
PAPER = Paper(
    "He, Zhang, Ren and Sun",
    "Deep Residual Learning for Image Recognition",
    "CVPR",
    2016,
    "https://arxiv.org/abs/1512.03385",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "Res-UNet": {},
    "Res-UNet-SE": {"skip_attention": "se"},
    "Res-UNet-DeepDecoder": {"decoder_blocks": 2},
    "Res-UNet-MobileNetV3": {"encoder": "mobilenetv3_large_100"},
}
PARAMETERS = {
    ("Res-UNet", 3, 2): 13_536_610,
    ("Res-UNet", 3, 1): 13_536_577,
    ("Res-UNet", 1, 2): 13_535_970,
    ("Res-UNet-SE", 3, 2): 13_548_000,
    ("Res-UNet-DeepDecoder", 3, 2): 15_106_210,
}
"""There is no published implementation: sums over the layers described above. U-Net has 31.0 million."""

build = ResUNet
