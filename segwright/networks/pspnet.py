"""PSPNet: averages over ever finer parts of a dilated encoder's last map tell each pixel what the scene is.

Paper: Zhao, Shi, Qi, Wang and Jia, Pyramid Scene Parsing Network, CVPR 2017, https://arxiv.org/abs/1612.01105,
figure 3; details that the paper leaves open are those of the authors' PyTorch code, whose parameter counts are met.

**Differs from the paper**:
- a side is a multiple of 8, not one more than that, so the enlargement moves a map by up to seven pixels;
- the auxiliary logits stay at 1/8 and the mask is shrunk to them, where the authors enlarge the logits;
- the new convolutions start from He weights.

The form of segmentation_models_pytorch, whose weights `convert` reads, is reached by arguments: it pools the third map
of an undilated encoder, does not normalize the average of the whole map, and has the 3 x 3 kernel in the last
convolution.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.dilation import dilate_whole_stages
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.grid_pooling import GridPooling
from segwright.layers.names import rename
from segwright.layers.resize import check_sides
from segwright.types import Paper


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)  # corners as the authors have them


class PyramidPooling(nn.Module):
    """The map and its averages over 1, 2 x 2, 3 x 3 and 6 x 6 parts, side by side (figure 3c).

    Args:
        in_channels: Channels of the map.
        bins: Parts along a side, level by level.
        normalize_whole: Whether batch normalization follows the level of one part.
    """

    def __init__(self, in_channels: int, bins: Sequence[int], *, normalize_whole: bool = True) -> None:
        super().__init__()
        channels = in_channels // len(bins)
        self.pools = nn.ModuleList(GridPooling(parts, parts) for parts in bins)
        self.reductions = nn.ModuleList(
            ConvNormReLU(in_channels, channels, 1)
            if parts > 1 or normalize_whole
            else nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.ReLU())
            for parts in bins
        )
        self.out_channels = in_channels + len(bins) * channels

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Pool, reduce, enlarge, join."""
        # each B C/4 parts parts
        levels = [reduce(pool(x)) for pool, reduce in zip(self.pools, self.reductions, strict=True)]
        return torch.cat([*(_enlarge(level, x.shape[-2:]) for level in levels), x], dim=1)  # B 2C H W


def _head(
    in_channels: int, channels: int, num_classes: int, dropout: float, kernel_sizes: Sequence[int] = (3, 1)
) -> nn.Sequential:
    first, last = kernel_sizes
    return nn.Sequential(
        ConvNormReLU(in_channels, channels, first),
        nn.Dropout2d(dropout),
        nn.Conv2d(channels, num_classes, last, padding=last // 2),
    )


class PSPNet(nn.Module):
    """The network of figure 3; the defaults are PSPNet-50.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network that timm can dilate; resnet50s and resnet101s have the authors' stem of three
            3 x 3 convolutions.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        last_stage: Stage whose map is pooled, by its stride without dilation; dilation keeps the map at 1/8.
        bins: Parts along a side that are averaged, level by level.
        normalize_whole: Whether batch normalization follows the average of the whole map; without it a batch of one
            image can be trained.
        channels: Width of the head; the auxiliary head is half as wide.
        kernel_sizes: Kernels of the head's two convolutions.
        dropout: Share of the channels that both heads drop in training.
        auxiliary_head: Whether to have the head on the stage before the last, for training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8
    auxiliary_weight: ClassVar[float] = 0.4

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet50s",
        weights: Weights = "auto",
        last_stage: Literal[8, 16, 32] = 32,
        bins: Sequence[int] = (1, 2, 3, 6),
        normalize_whole: bool = True,
        channels: int = 512,
        kernel_sizes: Sequence[int] = (3, 1),
        dropout: float = 0.1,
        auxiliary_head: bool = True,
    ) -> None:
        super().__init__()
        stages = [last_stage // 2, last_stage]
        self.encoder = make_encoder(encoder, in_channels, stages, output_stride=8, by_stage=True, weights=weights)
        dilate_whole_stages(self.encoder, 8)
        before, last = self.encoder.channels
        self.pyramid = PyramidPooling(last, bins, normalize_whole=normalize_whole)
        self.head = _head(self.pyramid.out_channels, channels, num_classes, dropout, kernel_sizes)
        self.auxiliary_head = _head(before, channels // 2, num_classes, dropout) if auxiliary_head else None
        initialize_convolutions(self.pyramid)
        for head in (self.head, self.auxiliary_head):
            if head is not None:
                initialize_convolutions(head)
                initialize_classifier(head[-1])  # type: ignore[arg-type] # the last is a convolution

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        _, last = self._features(image)
        return self._logits(last, image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of the head at the image's size, and of the auxiliary head at an eighth of it."""
        before, last = self._features(image)
        logits = [self._logits(last, image.shape[-2:])]  # B K H W
        if self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(before))  # B K H/8 W/8
        return logits

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        check_sides(image, self.stride, "PSPNet")
        before, last = self.encoder(image)  # B 1024 H/8 W/8 and B 2048 H/8 W/8
        return before, last

    def _logits(self, last: Tensor, size: Sequence[int]) -> Tensor:
        logits = self.head(self.pyramid(last))  # B K H/8 W/8
        return _enlarge(logits.to(torch.float32, memory_format=torch.contiguous_format), size)  # B K H W


NAME = "PSPNet"
PAPER = Paper(
    "Zhao, Shi, Qi, Wang and Jia", "Pyramid Scene Parsing Network", "CVPR", 2017, "https://arxiv.org/abs/1612.01105"
)
VARIANTS: dict[str, dict[str, Any]] = {
    "PSPNet-50": {"encoder": "resnet50s"},
    "PSPNet-101": {"encoder": "resnet101s"},
    "PSPNet-50 without auxiliary head": {"encoder": "resnet50s", "auxiliary_head": False},
    "PSPNet-101 without auxiliary head": {"encoder": "resnet101s", "auxiliary_head": False},
    "PSPNet-50-smp": {
        "encoder": "resnet50",
        "last_stage": 8,
        "normalize_whole": False,
        "kernel_sizes": (1, 3),
        "dropout": 0.2,
        "auxiliary_head": False,
    },
}
PARAMETERS = {
    ("PSPNet-50", 3, 150): 49_180_908,
    ("PSPNet-50", 3, 21): 49_081_578,
    ("PSPNet-101", 3, 150): 68_173_036,
    ("PSPNet-101", 3, 21): 68_073_706,
    ("PSPNet-101", 3, 19): 68_072_166,
    ("PSPNet-50 without auxiliary head", 3, 150): 46_782_550,
    ("PSPNet-50 without auxiliary head", 3, 21): 46_716_373,
    ("PSPNet-101 without auxiliary head", 3, 150): 65_774_678,
    ("PSPNet-101 without auxiliary head", 3, 21): 65_708_501,
    ("PSPNet-101 without auxiliary head", 3, 19): 65_707_475,
    ("PSPNet-50-smp", 3, 21): 2_330_069,
}
"""As in the authors' PyTorch code; of segmentation_models_pytorch only the parameters that it uses."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `PSPNet` with a ResNet encoder, under the names used here.

    Of the encoder only the depth of 3 that is the default there; the stages after it, which it never runs, are left
    out.
    """
    rules = (
        (r"^encoder\.", "encoder.network."),
        (r"^decoder\.psp\.blocks\.0\.pool\.1\.0\.", "pyramid.reductions.0.0."),
        (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.", r"pyramid.reductions.\1.convolution."),
        (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.", r"pyramid.reductions.\1.norm."),
        (r"^decoder\.conv\.0\.", "head.0.convolution."),
        (r"^decoder\.conv\.1\.", "head.0.norm."),
        (r"^segmentation_head\.0\.", "head.2."),
    )
    used = {name: value for name, value in state_dict.items() if not re.match(r"encoder\.layer[34]\.", name)}
    return rename(used, rules)


build = PSPNet
