"""DeepLabv3: context from dilated convolutions, side by side in a pyramid with image pooling, or one after the other.

Paper: Chen, Papandreou, Schroff and Adam, Rethinking Atrous Convolution for Semantic Image Segmentation, 2017,
https://arxiv.org/abs/1706.05587; the blocks in cascade are figure 3, the pyramid in parallel figure 5.

**Differs from the paper**:
- the stride of a stage is in its first unit and on the 3 x 3 convolution, as timm's weights have it;
- blocks 5 to 7 start at random, their units as the identity; we do not know how the authors started theirs;
- a tenth of the pyramid's result is dropped in training, as in the authors' code;
- sides are multiples of the output stride, where the authors take 513, and logits are enlarged with
  `align_corners=False` to suit.

Arguments give the networks of torchvision and segmentation_models_pytorch, whose weights `convert` reads: they have a
3 x 3 convolution before the logits and no multi-grid, the first an auxiliary head, the second aligned corners.
"""

import copy
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
from segwright.layers.names import rename
from segwright.layers.resize import check_sides
from segwright.types import Paper


def _block4(encoder: nn.Module, name: str) -> nn.Sequential:
    block = getattr(getattr(encoder, "network", None), "layer4", None)
    if not isinstance(block, nn.Sequential):
        raise ValueError(f"encoder '{name}' has no residual units for a multi-grid or a cascade; take a ResNet")
    return block


def _set_rates(block: nn.Sequential, rates: Sequence[int]) -> None:
    """Dilate the 3 x 3 convolutions of each unit of a block by the unit's rate."""
    if len(rates) != len(block):
        raise ValueError(
            f"multi_grid has {len(rates)} rates, but the encoder's last block has {len(block)} units; "
            "give one rate a unit"
        )
    for unit, rate in zip(block, rates, strict=True):
        for module in unit.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate, rate)


class Cascade(nn.Sequential):
    """Blocks 5, 6 and 7: replicas of block 4, each with twice the rates of the one before (figure 3 b)."""

    def __init__(self, block4: nn.Sequential) -> None:
        super().__init__()
        last = block4[-1]  # unlike the first unit, it takes as many channels as it gives
        if last.downsample is not None:
            raise ValueError("the encoder's last block has one unit, but a cascade needs two or more; take a ResNet-50")
        rates = [unit.conv2.dilation[0] for unit in block4]
        for number in (5, 6, 7):
            block = nn.Sequential(*(copy.deepcopy(last) for _ in block4))
            rates = [2 * rate for rate in rates]
            _set_rates(block, rates)
            self.add_module(f"block{number}", block)
        initialize_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        for unit in (unit for block in self for unit in block):
            unit.zero_init_last()


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one pixel, three rates and the whole image, side by side (figure 5).

    Args:
        in_channels: Channels of the encoder's last map.
        channels: Channels of each branch and of the result.
        rates: Dilations of the 3 x 3 branches in cells.
        dropout: Share of the values of the result that are dropped in training.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.pixel = ConvNormReLU(in_channels, channels, 1)
        self.atrous = nn.ModuleList(ConvNormReLU(in_channels, channels, dilation=rate) for rate in rates)
        self.image_pooling = ConvNormReLU(in_channels, channels, 1)
        self.project = ConvNormReLU((2 + len(rates)) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        initialize_convolutions(self)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Branches, joined and projected."""
        pooled = self.image_pooling(x.mean(dim=(2, 3), keepdim=True))  # B D 1 1
        branches = [self.pixel(x), *(branch(x) for branch in self.atrous), pooled.expand(-1, -1, *x.shape[-2:])]
        result: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))  # B D H W
        return result


def _auxiliary_head(in_channels: int, num_classes: int) -> nn.Sequential:
    classifier = nn.Conv2d(in_channels // 4, num_classes, 1)
    head = nn.Sequential(ConvNormReLU(in_channels, in_channels // 4), nn.Dropout(0.1), classifier)
    initialize_convolutions(head)
    initialize_classifier(classifier)
    return head


class DeepLabV3(nn.Module):
    """The network of figure 5 or, in cascade, of figure 3 b.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network that timm can dilate; a ResNet if there is a multi-grid or a cascade.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        head: What follows the encoder: the pyramid ("parallel") or blocks 5 to 7 ("cascaded").
        output_stride: Stride of the encoder's last map; at 8 all rates double.
        multi_grid: Factors on the rate of block 4, one a unit; the cascade inherits them. None leaves timm's rates,
            which are torchvision's: the first unit of a dilated block keeps the rate of the block before.
        rates: Dilations of the pyramid's 3 x 3 branches in cells, at an output stride of 16.
        channels: Width of the pyramid.
        dropout: Share of the values of the pyramid's result that are dropped in training.
        head_convolution: Whether a 3 x 3 convolution precedes the logits.
        align_corners: Whether the corners of the logits stay corners when they are enlarged.
        auxiliary_head: Whether to have a head on block 3, for training.

    Raises:
        ValueError: If the multi-grid or the cascade does not fit the encoder.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16
    auxiliary_weight: ClassVar[float] = 0.5  # torchvision's training script

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet101",
        weights: Weights = "auto",
        head: Literal["parallel", "cascaded"] = "parallel",
        output_stride: Literal[8, 16] = 16,
        multi_grid: Sequence[int] | None = (1, 2, 4),
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        dropout: float = 0.1,
        head_convolution: bool = False,
        align_corners: bool = False,
        auxiliary_head: bool = False,
    ) -> None:
        super().__init__()
        self.stride = output_stride  # type: ignore[misc] # the class has the default's
        self.align_corners = align_corners
        self.encoder = make_encoder(
            encoder, in_channels, [16, 32], output_stride=output_stride, by_stage=True, weights=weights
        )
        before, last = self.encoder.channels
        if multi_grid is not None:
            dilate_whole_stages(self.encoder, output_stride)
            _set_rates(_block4(self.encoder, encoder), [rate * 32 // output_stride for rate in multi_grid])
        self.context: nn.Module
        if head == "parallel":
            self.context = ASPP(last, channels, [rate * 16 // output_stride for rate in rates], dropout)
        else:
            self.context = Cascade(_block4(self.encoder, encoder))
            channels = last
        self.convolution = ConvNormReLU(channels, channels) if head_convolution else nn.Identity()
        self.head = nn.Conv2d(channels, num_classes, 1)
        self.auxiliary_head = _auxiliary_head(before, num_classes) if auxiliary_head else None
        initialize_convolutions(self.convolution)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        _, block4 = self._features(image)
        return self._logits(block4, image)

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits at the image's size, and those of the auxiliary head at the size of the encoder's last map."""
        block3, block4 = self._features(image)
        logits = [self._logits(block4, image)]
        if self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(block3))  # B K H/16 W/16
        return logits

    def _features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        check_sides(image, self.stride, "DeepLabV3")
        block3, block4 = self.encoder(image)  # B C4 H/16 W/16 and B C5 H/16 W/16 (H/8 W/8 at output stride 8)
        return block3, block4

    def _logits(self, block4: Tensor, image: Tensor) -> Tensor:
        logits = self.head(self.convolution(self.context(block4)))  # B K H/16 W/16
        # The losses need single precision class by class, and the enlargement is quick in it.
        logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
        return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=self.align_corners)  # B K H W


NAME = "DeepLabv3"
PAPER = Paper(
    "Chen, Papandreou, Schroff and Adam",
    "Rethinking Atrous Convolution for Semantic Image Segmentation",
    "arXiv",
    2017,
    "https://arxiv.org/abs/1706.05587",
)
_TORCHVISION: dict[str, Any] = {"output_stride": 8, "multi_grid": None, "dropout": 0.5, "head_convolution": True}
_SMP: dict[str, Any] = _TORCHVISION | {"multi_grid": (1, 1, 1), "align_corners": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "DeepLabV3-ResNet101": {"encoder": "resnet101"},
    "DeepLabV3-ResNet50": {"encoder": "resnet50"},
    # The best multi-grid of the cascade in the paper, from memory.
    "DeepLabV3-ResNet101-cascaded": {"encoder": "resnet101", "head": "cascaded", "multi_grid": (1, 2, 1)},
    "DeepLabV3-ResNet50-torchvision": {"encoder": "resnet50", "auxiliary_head": True, **_TORCHVISION},
    "DeepLabV3-ResNet101-torchvision": {"encoder": "resnet101", "auxiliary_head": True, **_TORCHVISION},
    "DeepLabV3-ResNet50-smp": {"encoder": "resnet50", **_SMP},
    "DeepLabV3-ResNet101-smp": {"encoder": "resnet101", **_SMP},
}
PARAMETERS = {
    ("DeepLabV3-ResNet101", 3, 21): 58_040_661,
    ("DeepLabV3-ResNet50-torchvision", 3, 21): 42_004_074,
    ("DeepLabV3-ResNet101-torchvision", 3, 21): 60_996_202,
    ("DeepLabV3-ResNet50-smp", 3, 21): 39_638_869,
    ("DeepLabV3-ResNet101-smp", 3, 21): 58_630_997,
}
"""As in torchvision, without its auxiliary head for those of segmentation_models_pytorch."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a torchvision or segmentation_models_pytorch DeepLabv3 on a ResNet, under the names used here.

    The variants named after the two have the arguments that fit.
    """
    rules = (
        (r"^(backbone|encoder)\.", "encoder.network."),
        (r"^(classifier\.0|decoder\.aspp)\.", "context."),
        (r"^context\.convs\.0\.", "context.pixel."),
        *((rf"^context\.convs\.{branch}\.", f"context.atrous.{branch - 1}.") for branch in (1, 2, 3)),
        (r"^context\.convs\.4\.1\.", "context.image_pooling.0."),
        (r"^context\.convs\.4\.2\.", "context.image_pooling.1."),
        (r"^(classifier\.1|decoder\.conv)\.", "convolution.0."),
        (r"^(classifier\.2|decoder\.bn)\.", "convolution.1."),
        (r"^(classifier\.4|segmentation_head\.0)\.", "head."),
        (r"^aux_classifier\.4\.", "auxiliary_head.2."),
        (r"^aux_classifier\.", "auxiliary_head.0."),
        (r"^((context|convolution|auxiliary_head)\b.*)\.0\.(\w+)$", r"\1.convolution.\3"),
        (r"^((context|convolution|auxiliary_head)\b.*)\.1\.(\w+)$", r"\1.norm.\3"),
    )
    return rename(state_dict, rules)


build = DeepLabV3
