"""DPC: a cell of five branches, found by random search, in place of the pyramid pooling of DeepLabv3+.

Paper: Chen, Collins, Zhu, Papandreou, Zoph, Schroff, Adam and Shlens, Searching for Efficient Multi-Scale
Architectures for Dense Image Prediction, NeurIPS 2018, https://arxiv.org/abs/1809.04184; the cell is the best one,
as the authors released it with the code of DeepLab.

**Differs from the paper**:
- the encoder is any classification network that can be dilated; aligned Xception is one of them;
- a pooling branch averages once over each cell of its grid, where the authors' code slides a window of that size
  by single steps. The published cell has no such branch;
- maps are enlarged with `align_corners=False`: sides are multiples of 16;
- the search itself is left to you: `sample_cell` draws what it evaluates.
"""

import random
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.grid_pooling import GridPooling
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.layers.separable import SeparableConvolution
from segwright.types import Paper

Branch = Sequence[int | str]
"""Input, operation, height and width: [0, "3x3", 18, 15] is a separable convolution with these rates of what branch 0
gives; input -1 is the encoder's map. The others are [_, "1x1", 1, 1] and, with a grid, [_, "pool", 2, 4]."""

CELL: tuple[Branch, ...] = (
    (-1, "3x3", 1, 6),
    (0, "3x3", 18, 15),
    (1, "3x3", 6, 3),
    (0, "3x3", 1, 1),
    (0, "3x3", 6, 21),
)
"""The best cell that the authors found."""

RATES = (1, 3, 6, 9, 12, 15, 18, 21)
GRIDS = (1, 2, 4, 8)
OPERATIONS = (
    ("1x1", 1, 1),
    *(("3x3", height, width) for height in RATES for width in RATES),
    *(("pool", height, width) for height in GRIDS for width in GRIDS),
)
"""What a branch may do in the search space; a recipe may take other rates and grids."""


def sample_cell(seed: int, branches: int = 5) -> list[tuple[int, str, int, int]]:
    """A cell drawn uniformly from the search space; the same one for the same seed."""
    generator = random.Random(seed)
    return [(generator.randrange(-1, number), *generator.choice(OPERATIONS)) for number in range(branches)]


def _check_cell(cell: Sequence[Branch]) -> None:
    if not cell:
        raise ValueError("the cell has no branches, but DPC needs at least one; leave cell out for the published one")
    for number, branch in enumerate(cell):
        match list(branch):
            case [int(source), "1x1" | "3x3" | "pool", int(height), int(width)] if height > 0 and width > 0:
                if not -1 <= source < number:
                    raise ValueError(
                        f"branch {number} of the cell has the input {source}, but the encoder's map (-1) or an earlier "
                        "branch is needed; order the branches by their inputs"
                    )
            case _:
                raise ValueError(
                    f"branch {number} of the cell is {list(branch)}, but a branch is [input, operation, height, width] "
                    "with 1x1, 3x3 or pool and sizes from 1; write it such as [0, 3x3, 18, 15]"
                )


class PoolingBranch(nn.Module):
    """Average over each cell of a grid, 1 x 1 convolution, and back to the size that came in."""

    def __init__(self, in_channels: int, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.pool = GridPooling(*grid)
        self.convolution = ConvNormReLU(in_channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Pool, mix, enlarge."""
        return resize(self.convolution(self.pool(x)), x.shape[-2:])  # B D H W


class DensePredictionCell(nn.Module):
    """Branches that read the encoder's map or each other, joined and projected.

    Args:
        in_channels: Channels of the encoder's map.
        cell: The branches, as `CELL` has them.
        channels: Channels of each branch and of the result.
        dropout: Share of the joined values that are dropped in training.
        rate_factor: Multiplies the rates of the convolutions.
    """

    def __init__(
        self, in_channels: int, cell: Sequence[Branch], channels: int, *, dropout: float = 0.1, rate_factor: int = 1
    ) -> None:
        super().__init__()
        _check_cell(cell)
        self.sources = [int(branch[0]) for branch in cell]
        self.branches = nn.ModuleList()
        for source, operation, *sizes in cell:
            height, width = map(int, sizes)
            before = in_channels if source == -1 else channels
            if operation == "pool":
                self.branches.append(PoolingBranch(before, channels, (height, width)))
            elif operation == "1x1":
                self.branches.append(ConvNormReLU(before, channels, 1))
            else:
                rates = (height * rate_factor, width * rate_factor)
                self.branches.append(SeparableConvolution(before, channels, dilation=rates))
        self.dropout = nn.Dropout(dropout)
        self.project = ConvNormReLU(len(cell) * channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """All branches, joined and projected."""
        outputs: list[Tensor] = []
        for source, branch in zip(self.sources, self.branches, strict=True):
            outputs.append(branch(x if source == -1 else outputs[source]))  # B D H W
        result: Tensor = self.project(self.dropout(torch.cat(outputs, dim=1)))  # B D H W
        return result


class DPC(nn.Module):
    """A dense prediction cell on an encoder, and the decoder of DeepLabv3+.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of an encoder with a stride of 4 that can be dilated, such as "aligned_xception71" or a ResNet.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        output_stride: Stride of the encoder's last map; at 8 the rates of the cell double.
        cell: Branches, each [input, operation, height, width] such as [0, 3x3, 18, 15] for a convolution with these
            rates of what branch 0 gives; input -1 is the encoder's map; operations are 3x3, 1x1 and pool.
        channels: Width of the cell and of the decoder.
        dropout: Share of the values of the joined branches that are dropped in training.
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
        cell: Sequence[Branch] = CELL,
        channels: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(
            encoder, in_channels, [4, output_stride], output_stride=output_stride, weights=weights
        )
        low_channels, high_channels = self.encoder.channels
        self.cell = DensePredictionCell(high_channels, cell, channels, dropout=dropout, rate_factor=16 // output_stride)
        self.low_level = ConvNormReLU(low_channels, 48, 1)
        self.decoder = nn.Sequential(
            SeparableConvolution(channels + 48, channels), SeparableConvolution(channels, channels)
        )
        self.head = nn.Conv2d(channels, num_classes, 1)
        for part in (self.cell, self.low_level, self.decoder):
            initialize_convolutions(part)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "DPC")
        low, high = self.encoder(image)  # B C1 H/4 W/4 and B C2 H/16 W/16 (H/8 W/8 at output stride 8)
        context = resize(self.cell(high), low.shape[-2:])  # B D H/4 W/4
        joined = torch.cat([context, self.low_level(low)], dim=1)  # B D+48 H/4 W/4
        return resize_logits(self.head(self.decoder(joined)), image.shape[-2:])  # B K H W


NAME = "DPC"
PAPER = Paper(
    "Chen, Collins, Zhu, Papandreou, Zoph, Schroff, Adam and Shlens",
    "Searching for Efficient Multi-Scale Architectures for Dense Image Prediction",
    "NeurIPS",
    2018,
    "https://arxiv.org/abs/1809.04184",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "DPC-ResNet34": {"encoder": "resnet34"},
    "DPC-Xception65": {"encoder": "aligned_xception65"},
    "DPC-Xception71": {"encoder": "aligned_xception71"},
}
PARAMETERS = {("DPC-Xception65", 3, 21): 37_867_312 + 1_150_976 + 168_325}
"""Encoder, cell with its projection, and decoder with its logits, each as in the authors' code."""

build = DPC
