"""BiSeNet V2: a wide, shallow detail branch and a narrow, deep semantic branch that gate each other.

Paper: Yu et al., BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation,
IJCV 2021, https://arxiv.org/abs/2004.02147; the network is figure 3, its table is table 1.

**Differs from the paper** (all as in CoinCheung/BiSeNet, whose parameter counts are met):
- batch normalization and ReLU follow the last convolution of the context embedding block, and ReLU follows the
  normalization of the depthwise convolutions of the gather-and-expansion layers;
- the maps of the semantic branch are enlarged by nearest neighbor inside the aggregation layer;
- the booster heads have a second 3 x 3 convolution at twice the resolution, with 16 to 1024 channels;
- their logits stay at the sizes of their stages and the mask is shrunk to them, which shortens a training step.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize_logits
from segwright.types import Paper

EXPANSION = 6  # of the gather-and-expansion layers, table 1


class StemBlock(nn.Module):
    """Two ways to halve the size, side by side (figure 4a); to a quarter of the input's size in all."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = ConvNormReLU(in_channels, out_channels, stride=2)
        self.convolution = nn.Sequential(
            ConvNormReLU(out_channels, out_channels // 2, 1), ConvNormReLU(out_channels // 2, out_channels, stride=2)
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fuse = ConvNormReLU(2 * out_channels, out_channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Filter and pool, then join."""
        x = self.first(x)  # B D H/2 W/2
        result: Tensor = self.fuse(torch.cat([self.convolution(x), self.pool(x)], dim=1))  # B D H/4 W/4
        return result


def _depthwise(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=in_channels, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class GatherAndExpansion(nn.Module):
    """Gather locally by a 3 x 3 convolution, expand depthwise, project back (figure 5b; 5c at stride 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        expanded = EXPANSION * in_channels
        self.gather = ConvNormReLU(in_channels, in_channels)
        self.expand = _depthwise(in_channels, expanded, stride)
        if stride == 2:
            self.expand.extend(_depthwise(expanded, expanded))
        self.expand.append(nn.ReLU())
        self.project = _pointwise(expanded, out_channels)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.extend(_depthwise(in_channels, in_channels, stride))
            self.shortcut.extend(_pointwise(in_channels, out_channels))
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Residual of the projection and the shortcut."""
        result: Tensor = self.activation(self.project(self.expand(self.gather(x))) + self.shortcut(x))
        return result


class ContextEmbedding(nn.Module):
    """Add the global average to every pixel (figure 4b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.context = ConvNormReLU(channels, channels, 1)
        self.last = ConvNormReLU(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Average, transform, broadcast, filter."""
        context = self.context(self.norm(x.mean(dim=(2, 3), keepdim=True)))  # B C 1 1
        result: Tensor = self.last(x + context)
        return result


class BilateralGuidedAggregation(nn.Module):
    """Each branch gates the other at its own resolution (figure 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail_keep = _depthwise(channels, channels).append(nn.Conv2d(channels, channels, 1, bias=False))
        self.detail_down = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.AvgPool2d(3, stride=2, padding=1),
        )
        self.semantic_up = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
        self.semantic_keep = _depthwise(channels, channels).append(nn.Conv2d(channels, channels, 1, bias=False))
        self.gate_up = nn.Sigmoid()
        self.gate_keep = nn.Sigmoid()
        self.fuse = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, detail: Float[Tensor, "B C H W"], semantic: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """Fuse the branches at the size of the detail branch."""
        size = detail.shape[-2:]
        # Nearest neighbor after the sigmoid gives the same values as before it, for a 16th of the work.
        gate = F.interpolate(self.gate_up(self.semantic_up(semantic)), size=size)  # B C H W
        fine = self.detail_keep(detail) * gate
        coarse = self.detail_down(detail) * self.gate_keep(self.semantic_keep(semantic))  # B C h w
        result: Tensor = self.fuse(fine + F.interpolate(coarse, size=size))  # B C H W
        return result


def _head(in_channels: int, channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        ConvNormReLU(in_channels, channels), nn.Dropout2d(dropout), nn.Conv2d(channels, num_classes, 1)
    )


def _booster(in_channels: int, channels: int, num_classes: int, dropout: float, stride: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormReLU(in_channels, channels),
        nn.Dropout2d(dropout),
        nn.Upsample(scale_factor=2.0),
        ConvNormReLU(channels, stride**2),
        nn.Conv2d(stride**2, num_classes, 1),
    )


class BiSeNetV2(nn.Module):
    """The network of figure 3.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        head_channels: Width of the head.
        booster_channels: Width of the first convolution of the booster heads.
        dropout: Share of head channels that are dropped in training.
        boosters: Whether to have the four heads that help the training of the semantic branch.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        head_channels: int = 1024,
        booster_channels: int = 128,
        dropout: float = 0.1,
        boosters: bool = True,
    ) -> None:
        super().__init__()
        self.detail = nn.Sequential(
            nn.Sequential(ConvNormReLU(in_channels, 64, stride=2), ConvNormReLU(64, 64)),
            nn.Sequential(ConvNormReLU(64, 64, stride=2), ConvNormReLU(64, 64), ConvNormReLU(64, 64)),
            nn.Sequential(ConvNormReLU(64, 128, stride=2), ConvNormReLU(128, 128), ConvNormReLU(128, 128)),
        )
        self.stem = StemBlock(in_channels, 16)
        self.stage3 = nn.Sequential(GatherAndExpansion(16, 32, 2), GatherAndExpansion(32, 32))
        self.stage4 = nn.Sequential(GatherAndExpansion(32, 64, 2), GatherAndExpansion(64, 64))
        self.stage5 = nn.Sequential(GatherAndExpansion(64, 128, 2), *(GatherAndExpansion(128, 128) for _ in range(3)))
        self.context = ContextEmbedding(128)
        self.aggregation = BilateralGuidedAggregation(128)
        self.head = _head(128, head_channels, num_classes, dropout)
        maps = ((16, 4), (32, 8), (64, 16), (128, 32)) if boosters else ()  # channels and stride of the stages
        self.boosters = nn.ModuleList(
            _booster(channels, booster_channels, num_classes, dropout, stride) for channels, stride in maps
        )
        initialize_convolutions(self)
        for head in (self.head, *self.boosters):
            initialize_classifier(head[-1])
        for module in self.modules():
            if isinstance(module, GatherAndExpansion):
                nn.init.zeros_(module.project[1].weight)  # type: ignore[arg-type] # starts as its shortcut

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        fused, _ = self._features(image)
        return resize_logits(self.head(fused), image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of the head at the image's size, and of the four boosters at their own, fine to coarse."""
        fused, stages = self._features(image)
        main = resize_logits(self.head(fused), image.shape[-2:])  # B K H W
        return [main, *(booster(x) for booster, x in zip(self.boosters, stages, strict=False))]

    def _features(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_sides(image, self.stride, "BiSeNetV2")
        detail = self.detail(image)  # B 128 H/8 W/8
        stem = self.stem(image)  # B 16 H/4 W/4
        stage3 = self.stage3(stem)  # B 32 H/8 W/8
        stage4 = self.stage4(stage3)  # B 64 H/16 W/16
        stage5 = self.stage5(stage4)  # B 128 H/32 W/32
        fused = self.aggregation(detail, self.context(stage5))  # B 128 H/8 W/8
        return fused, [stem, stage3, stage4, stage5]


NAME = "BiSeNet V2"
PAPER = Paper(
    "Yu et al.",
    "BiSeNet V2: Bilateral Network with Guided Aggregation for Real-time Semantic Segmentation",
    "IJCV",
    2021,
    "https://arxiv.org/abs/2004.02147",
)
VARIANTS: dict[str, dict[str, Any]] = {"BiSeNetV2": {}, "BiSeNetV2-inference": {"boosters": False}}
PARAMETERS = {("BiSeNetV2", 3, 19): 5_231_487, ("BiSeNetV2-inference", 3, 19): 3_358_627}
"""As in CoinCheung/BiSeNet."""

build = BiSeNetV2
