"""FCN: VGG16 with its classifier as convolutions, scores of every cell, enlarged in steps and joined with finer scores.

Paper: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015,
https://arxiv.org/abs/1411.4038; the network is figure 3, its names are those of the authors' code.

**Differs from the paper**:
- by default every layer keeps its size, so that nothing is cropped and sides have to be multiples of 32; the authors
  pad the image by 100 pixels and crop, which `padding="reference"` does;
- all deconvolutions are fixed, as in the released networks; in the paper those between the joins are learned;
- one network is trained at once; to train in stages as the paper does, start from the weights of the coarser network,
  whose names are the same.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import Weights
from segwright.encoders.vgg import VGG16
from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper

SKIP_CROPS = {16: 5, 8: 9}
"""Pixels before the side scores of each stride in the reference, which the padding of the image has added."""

CROPS = {32: 19, 16: 27, 8: 31}
"""The same before the logits, by the stride of the finest scores."""


def _crop(x: Tensor, offset: int, size: Sequence[int]) -> Tensor:
    height, width = size
    return x[..., offset : offset + height, offset : offset + width]


def _score(in_channels: int, num_classes: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type] # it has one
    return convolution


class BilinearDeconvolution(nn.Module):
    """Bilinear enlargement as a transposed convolution with fixed weights, class by class.

    Args:
        channels: Channels that come in and go out.
        factor: How many times larger the result is.
        padding: Pixels that are cut from each side of the result.
    """

    weight: Tensor

    def __init__(self, channels: int, factor: int, padding: int) -> None:
        super().__init__()
        self.factor, self.padding = factor, padding
        tent = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
        self.register_buffer("weight", torch.outer(tent, tent).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K H W"]:
        """Enlarge."""
        return F.conv_transpose2d(x, self.weight, stride=self.factor, padding=self.padding, groups=x.shape[1])


class Skip(nn.Module):
    """Coarse scores, doubled, plus the scores of a finer map.

    Args:
        in_channels: Channels of the finer map.
        num_classes: Channels of the scores.
        padding: Pixels that are cut from each side of the doubled scores.
        crop: Pixels that the finer map has before the first of the coarse one.
        scale: Factor of the finer map.
    """

    def __init__(self, in_channels: int, num_classes: int, *, padding: int, crop: int, scale: float) -> None:
        super().__init__()
        self.upscore = BilinearDeconvolution(num_classes, 2, padding)
        self.score = _score(in_channels, num_classes)
        self.crop, self.scale = crop, scale

    def forward(self, scores: Float[Tensor, "B K h w"], pooled: Float[Tensor, "B C _ _"]) -> Float[Tensor, "B K H W"]:
        """Double, add."""
        doubled: Tensor = self.upscore(scores)  # B K 2h 2w
        result: Tensor = doubled + _crop(self.score(self.scale * pooled), self.crop, doubled.shape[-2:])
        return result


class FCN(nn.Module):
    """The network of figure 3; the defaults are FCN-8s.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        finest: Stride of the finest scores: 32 for those of fc7 alone, 16 with pool4, 8 with pool3 as well.
        padding: "modern" keeps the size in every layer; "reference" is that of the authors, for weights of theirs,
            and takes images of any size.
        hidden_channels: Width of fc6 and fc7.
        dropout: Share of the values of fc6 and of fc7 that are dropped in training.
        at_once: Whether pool4 and pool3 are scaled by 0.01 and 0.0001, with which the authors train FCN-8s without
            stages (PAMI 2017, https://arxiv.org/abs/1605.06211).
        weights: Weights of the encoder, fc6 and fc7, as `TimmEncoder` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        finest: Literal[32, 16, 8] = 8,
        padding: Literal["reference", "modern"] = "modern",
        hidden_channels: int = 4096,
        dropout: float = 0.5,
        at_once: bool = False,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        modern = padding == "modern"
        self.stride = 32 if modern else 1  # type: ignore[misc] # this one's own
        self.encoder = VGG16(in_channels, first_padding=1 if modern else 100, weights=weights)
        self.pools = nn.ModuleList(nn.MaxPool2d(2, ceil_mode=not modern) for _ in self.encoder.stages)
        _, _, channels3, channels4, channels5 = self.encoder.channels
        fc6 = nn.Conv2d(channels5, hidden_channels, 7, padding=3 if modern else 0)
        fc7 = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.fc6 = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(fc7, nn.ReLU(), nn.Dropout(dropout))
        self.score_fr = _score(hidden_channels, num_classes)
        self.skips = nn.ModuleList(
            Skip(
                channels,
                num_classes,
                padding=1 if modern else 0,
                crop=0 if modern else SKIP_CROPS[stride],
                scale=scale if at_once else 1.0,
            )
            for stride, channels, scale in ((16, channels4, 1e-2), (8, channels3, 1e-4))
            if stride >= finest
        )
        self.upscore = BilinearDeconvolution(num_classes, finest, padding=finest // 2 if modern else 0)
        self.crop = 0 if modern else CROPS[finest]
        for part in (fc6, fc7):  # a small start: nothing normalizes what comes in
            initialize_classifier(part)
        self.encoder.hand_over(fc6, fc7)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "FCN")
        x = image
        maps = []
        for stage, pool in zip(self.encoder.stages, self.pools, strict=True):
            x = pool(stage(x))  # B C_i H/2^i W/2^i
            maps.append(x)
        scores = self.score_fr(self.fc7(self.fc6(x)))  # B K H/32 W/32
        _, _, pool3, pool4, _ = maps
        for skip, pooled in zip(self.skips, (pool4, pool3), strict=False):
            scores = skip(scores, pooled)  # B K H/16 W/16, then H/8 W/8
        return _crop(self.upscore(scores), self.crop, image.shape[-2:])  # B K H W


NAME = "FCN"
PAPER = Paper(
    "Long, Shelhamer and Darrell",
    "Fully Convolutional Networks for Semantic Segmentation",
    "CVPR",
    2015,
    "https://arxiv.org/abs/1411.4038",
)
VARIANTS: dict[str, dict[str, Any]] = {"FCN-8s": {"finest": 8}, "FCN-16s": {"finest": 16}, "FCN-32s": {"finest": 32}}
PARAMETERS = {
    ("FCN-8s", 3, 21): 134_362_751,
    ("FCN-16s", 3, 21): 134_357_354,
    ("FCN-32s", 3, 21): 134_346_581,
}
"""Of the authors' network without its deconvolutions, whose weights are fixed."""

build = FCN
