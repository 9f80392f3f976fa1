"""MS-Dual-Guided: four scales at one size, each refined twice by attention over positions and channels.

The attention of a scale is weighted by what a small encoder-decoder, the semantic module, rebuilds of that scale. Its
code has to be about the same in both rounds, so that the second one looks for what the first one did.

Paper: Sinha and Dolz, Multi-scale self-guided attention for medical image segmentation, JBHI 2021,
https://arxiv.org/abs/1906.02849; what the paper leaves open is decided as in the authors' code.

**Differs from the paper**:
- the encoder is any classification network; the authors' code has a ResNeXt-101 on gray images, at first 32x4d, which
  is the default here, and 32x8d in its last version;
- the semantic module takes the four scales as one batch, over which it normalizes; the authors normalize scale by
  scale in training, but then keep one running average for all;
- layers of the authors' code that it never runs are left out (955,412 parameters), and so are biases that cannot
  change anything: before a normalization (7,104) and of the keys of the attention over positions (64);
- the weights of the heads start smaller.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.types import Paper

STRIDES = (4, 8, 16, 32)  # of the encoder's maps, which are all enlarged to the first
CODE_WEIGHT = 0.25
RECONSTRUCTION_WEIGHT = 0.1


def _convolution(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.PReLU())


class PositionAttention(nn.Module):
    """PAM: each position adds the values of all positions, weighted by how well their keys fit its query."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The input plus gamma times what each position gathers."""
        layers = (self.query, self.key, self.value)
        query, key, value = (layer(x).flatten(2).transpose(1, 2)[:, None] for layer in layers)  # B 1 H·W C/8, C/8, C
        # Engines that keep no pair of positions want heads of one width, in rows; the zeros change no product.
        padding = (0, value.shape[-1] - query.shape[-1])
        query, key, value = F.pad(query, padding), F.pad(key, padding), value.contiguous()  # each B 1 H·W C
        gathered = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # B 1 H·W C
        return self.gamma * gathered[:, 0].transpose(1, 2).reshape(x.shape) + x  # B C H W


class ChannelAttention(nn.Module):
    """CAM: each channel adds all channels, the more the less they resemble it."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The input plus gamma times what each channel gathers."""
        channels = x.flatten(2)[:, None]  # B 1 C H·W
        # The paper's energy is the greatest product of a row minus the product; the softmax does not see the former.
        # Written out in mixed precision, the products, sums over all positions, would be rounded to bfloat16.
        gathered = F.scaled_dot_product_attention(-channels, channels, channels, scale=1.0)  # B 1 C H·W
        return self.gamma * gathered[:, 0].reshape(x.shape) + x  # B C H W


class SemanticModule(nn.Module):
    """Encoder-decoder that rebuilds its input from a code at a quarter of the size; `channels` as they come in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvNormReLU(channels, 2 * channels),
            ConvNormReLU(2 * channels, 2 * channels),
            nn.MaxPool2d(2),
            ConvNormReLU(2 * channels, 4 * channels),
            ConvNormReLU(4 * channels, 4 * channels),
            nn.MaxPool2d(2),
        )
        self.decoder = nn.Sequential(
            ConvNormReLU(4 * channels, 2 * channels),
            ConvNormReLU(2 * channels, 2 * channels),
            nn.ConvTranspose2d(2 * channels, 2 * channels, 2, stride=2),
            ConvNormReLU(2 * channels, channels),
            ConvNormReLU(channels, channels),
            nn.ConvTranspose2d(channels, channels, 2, stride=2),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B 4*C h w"], Float[Tensor, "B C H W"]]:
        """Code and reconstruction."""
        code = self.encoder(x)  # B 4·C H/4 W/4
        return code, self.decoder(code)  # B C H W


class Attended(NamedTuple):
    """What a stack gives: the attention of each scale, and three maps that hold the scales one after the other.

    Attributes:
        attention: One map a scale.
        inputs: What the semantic module saw.
        codes: What it made of that.
        reconstructions: What it rebuilt from the codes.
    """

    attention: list[Tensor]
    inputs: Tensor
    codes: Tensor
    reconstructions: Tensor


class GuidedAttention(nn.Module):
    """One stack: attention over positions and channels in each scale, guided by a semantic module that all share.

    Args:
        channels: Channels that go out of each scale; twice as many come in.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position = nn.ModuleList(self._branch(channels, PositionAttention(channels)) for _ in STRIDES)
        self.channel = nn.ModuleList(self._branch(channels, ChannelAttention()) for _ in STRIDES)
        self.semantic = SemanticModule(2 * channels)
        self.guides = nn.ModuleList(nn.Conv2d(2 * channels, channels, 3, padding=1) for _ in STRIDES)
        self.projections = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in STRIDES)

    def forward(self, maps: Sequence[Float[Tensor, "B C H W"]]) -> Attended:
        """Attend to each scale, and weight the result by what the semantic module rebuilds of the scale."""
        inputs = torch.cat(list(maps))  # 4·B 2·C H W
        codes, reconstructions = self.semantic(inputs)  # 4·B 8·C H/4 W/4 and 4·B 2·C H W
        rebuilt = reconstructions.unflatten(0, (len(STRIDES), -1))  # 4 B 2·C H W
        attention = []
        for i, (x, reconstruction) in enumerate(zip(maps, rebuilt, strict=True)):
            attended = self.position[i](x) + self.channel[i](x)  # B C H W
            attention.append(self.projections[i](attended * self.guides[i](reconstruction)))
        return Attended(attention, inputs, codes, reconstructions)

    @staticmethod
    def _branch(channels: int, attention: nn.Module) -> nn.Sequential:
        return nn.Sequential(_convolution(2 * channels, channels), attention, _convolution(channels, channels))


class GuidedAttentionNetwork(nn.Module):
    """The encoder, its maps at one size, and two stacks of guided attention.

    An image of 256 x 256 has 4096 positions, and each attends to all: time grows with the square of the number of
    pixels, and so does memory on engines that keep every pair.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of an encoder with strides of 4, 8, 16 and 32.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        channels: Width of each scale, a multiple of 8.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32
    auxiliary_weight: ClassVar[float] = 1.0

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnext101_32x4d",
        weights: Weights = "auto",
        channels: int = 64,
    ) -> None:
        super().__init__()
        if channels < 8 or channels % 8:
            raise ValueError(
                f"channels is {channels}, but the queries of GuidedAttentionNetwork have an eighth of them; "
                "give a multiple of 8"
            )
        self.encoder = make_encoder(encoder, in_channels, STRIDES, weights=weights)
        self.reductions = nn.ModuleList(_convolution(width, channels, 1) for width in self.encoder.channels)
        self.fusion = nn.Sequential(
            _convolution(len(STRIDES) * channels, channels),
            _convolution(channels, channels),
            _convolution(channels, channels, 1),
        )
        self.first = GuidedAttention(channels)
        self.second = GuidedAttention(channels)
        self.raw_heads = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in STRIDES)
        self.refined_heads = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in STRIDES)
        for part in (self.reductions, self.fusion, self.first, self.second):
            _initialize(part)
        for head in (*self.raw_heads, *self.refined_heads):
            initialize_classifier(head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size: the mean of the four refined ones."""
        _, second = self._stacks(self._scales(image))
        return resize_logits(_mean(self._refined(second)), image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K H W"]]:
        """Refined and then raw logits of the four scales, the finest first; in evaluation, the mean before them."""
        scales = self._scales(image)
        return self._outputs(scales, self._stacks(scales)[1], image.shape[-2:])

    def forward_with_terms(
        self, image: Float[Tensor, "B C H W"], mask: Int[Tensor, "B H W"], ignore_label: int
    ) -> tuple[list[Float[Tensor, "B K H W"]], dict[str, Float[Tensor, ""]]]:
        """All outputs; how far the codes of the two stacks are apart, and the reconstructions from what they rebuild.

        Both are mean squares, summed over the scales; they see every pixel, labelled or not.
        """
        scales = self._scales(image)
        first, second = stacks = self._stacks(scales)
        code = F.mse_loss(first.codes, second.codes)
        reconstruction = torch.stack([F.mse_loss(stack.reconstructions, stack.inputs) for stack in stacks]).sum()
        terms = {
            "code": CODE_WEIGHT * len(STRIDES) * code,
            "reconstruction": RECONSTRUCTION_WEIGHT * len(STRIDES) * reconstruction,
        }
        return self._outputs(scales, second, image.shape[-2:]), terms

    def _scales(self, image: Tensor) -> list[Tensor]:
        check_sides(image, self.stride, "GuidedAttentionNetwork")
        maps = self.encoder(image)  # B _ H/4 W/4, H/8 W/8, H/16 W/16 and H/32 W/32
        reduced = [reduction(x) for reduction, x in zip(self.reductions, maps, strict=True)]
        return [resize(x, maps[0].shape[-2:]) for x in reduced]  # each B D H/4 W/4

    def _stacks(self, scales: list[Tensor]) -> tuple[Attended, Attended]:
        fused = self.fusion(torch.cat(scales, dim=1))  # B D H/4 W/4
        first = self.first([torch.cat([x, fused], dim=1) for x in scales])
        weighted = [attention * fused for attention in first.attention]
        second = self.second([torch.cat(pair, dim=1) for pair in zip(scales, weighted, strict=True)])
        return first, second

    def _refined(self, second: Attended) -> list[Tensor]:
        return [head(x) for head, x in zip(self.refined_heads, second.attention, strict=True)]  # each B K H/4 W/4

    def _outputs(self, scales: list[Tensor], second: Attended, size: Sequence[int]) -> list[Tensor]:
        refined = self._refined(second)
        raw = [head(x) for head, x in zip(self.raw_heads, scales, strict=True)]  # each B K H/4 W/4
        main = [] if self.training else [_mean(refined)]
        return [resize_logits(logits, size) for logits in (*main, *refined, *raw)]  # each B K H W


def _mean(logits: list[Tensor]) -> Tensor:
    return torch.stack(logits).mean(dim=0)


def _initialize(part: nn.Module) -> None:
    """Draw weights as the authors' code does, from N(0, 2 / (fan-in + fan-out)); biases are zero."""
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


NAME = "MS-Dual-Guided"
PAPER = Paper(
    "Sinha and Dolz",
    "Multi-scale self-guided attention for medical image segmentation",
    "JBHI",
    2021,
    "https://arxiv.org/abs/1906.02849",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "MS-Dual-Guided-ResNeXt101-32x4d": {"encoder": "resnext101_32x4d"},
    "MS-Dual-Guided-ResNeXt101-32x8d": {"encoder": "resnext101_32x8d"},
}
PARAMETERS = {("MS-Dual-Guided-ResNeXt101-32x8d", 1, 5): 103_548_895}
"""As in the authors' code, which has 104,511,475, less 962,580 that never run or cannot change anything."""

build = GuidedAttentionNetwork
