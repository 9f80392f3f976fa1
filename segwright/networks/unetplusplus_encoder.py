"""UNet++ on an encoder: between the encoder's maps and the decoder's lie densely joined convolutions.

Paper: Zhou, Rahman Siddiquee, Tajbakhsh and Liang, UNet++: A Nested U-Net Architecture for Medical Image Segmentation,
DLMIA 2018, https://arxiv.org/abs/1807.10165, figure 1.

**Differs from the paper** (it is built as in segmentation_models_pytorch, whose weights `convert` reads):
- the encoder is any classification network: the nodes begin at half the image's size, and a last pair of convolutions,
  joined with nothing, goes to full size;
- there is one head, 3 x 3, and neither deep supervision nor pruning; `unetplusplus` has both;
- a node joins the later nodes of its skip before the earlier ones and is as wide as the encoder's map of its size, the
  last of each skip and the last pair 256, 128, 64, 32, 16;
- batch normalization follows each convolution;
- maps are doubled by nearest neighbor.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides
from segwright.types import Paper

STRIDES = (2, 4, 8, 16, 32)  # of the encoder's maps; X^{i,0} is at STRIDES[i]
DEPTH = len(STRIDES) - 1


class Node(nn.Module):
    """X^{i,j}: the node below, doubled in size, and all earlier nodes of the skip, through two convolutions."""

    def __init__(self, below_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(below_channels + skip_channels, out_channels)
        self.conv2 = ConvNormReLU(out_channels, out_channels)

    def forward(
        self, below: Float[Tensor, "B C H W"], skip: Sequence[Float[Tensor, "B _ 2*H 2*W"]]
    ) -> Float[Tensor, "B D 2*H 2*W"]:
        """Double the size, join, convolve."""
        up = F.interpolate(below, scale_factor=2.0)  # B C 2H 2W
        result: Tensor = self.conv2(self.conv1(torch.cat([up, *reversed(skip)], dim=1)))  # B D 2H 2W
        return result


class UNetPlusPlus(nn.Module):
    """The network of figure 1a on a classification network.

    The node "i_j" is X^{i,j}: i steps below half the size and, along the skip, the j-th.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with the strides 2, 4, 8, 16 and 32.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        decoder_channels: Widths of the last nodes of the skips at the strides 16, 8, 4 and 2, and at full size.
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
    ) -> None:
        super().__init__()
        if len(decoder_channels) != len(STRIDES):
            raise ValueError(
                f"decoder_channels has {len(decoder_channels)} widths, but UNetPlusPlus needs {len(STRIDES)}; give one "
                "for each of the strides 16, 8, 4, 2 and 1"
            )
        self.encoder = make_encoder(encoder, in_channels, STRIDES, weights=weights)
        widths = self.encoder.channels
        *last_widths, full_width = decoder_channels
        last = [*reversed(last_widths), widths[DEPTH]]  # widths of the nodes that end the skips, i + j = DEPTH
        self.nodes = nn.ModuleDict()
        for j in range(1, DEPTH + 1):
            for i in range(DEPTH + 1 - j):
                kind = last if i + j == DEPTH else widths
                self.nodes[f"{i}_{j}"] = Node(kind[i + 1], j * widths[i], kind[i])
        self.full = Node(last[0], 0, full_width)
        self.head = nn.Conv2d(full_width, num_classes, 3, padding=1)
        for part in (self.nodes, self.full):
            initialize_convolutions(part)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "UNetPlusPlus")
        skips = [[x] for x in self.encoder(image)]  # skips[i][j] is X^{i,j}: B Ci H/STRIDES[i] W/STRIDES[i]
        for j in range(1, DEPTH + 1):
            for i in range(DEPTH + 1 - j):
                skips[i].append(self.nodes[f"{i}_{j}"](skips[i + 1][j - 1], skips[i]))
        logits: Tensor = self.head(self.full(skips[0][-1], []))  # B K H W
        return logits


NAME = "UNet++ on an encoder"
PAPER = Paper(
    "Zhou, Rahman Siddiquee, Tajbakhsh and Liang",
    "UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
    "DLMIA",
    2018,
    "https://arxiv.org/abs/1807.10165",
)
VARIANTS: dict[str, dict[str, Any]] = {"UNetPlusPlus-ResNet34": {"encoder": "resnet34"}}
PARAMETERS = {("UNetPlusPlus-ResNet34", 3, 21): 26_081_509}
"""As in segmentation_models_pytorch."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `UnetPlusPlus` with a ResNet encoder, under the names used here."""
    names = {f"x_{k - j}_{k - 1}": f"nodes.{DEPTH - k}_{j}" for k in range(1, DEPTH + 1) for j in range(1, k + 1)}
    names[f"x_0_{DEPTH}"] = "full"
    converted = {}
    for name, value in state_dict.items():
        new_name = re.sub(r"^encoder\.", "encoder.network.", name)
        new_name = re.sub(r"^segmentation_head\.0\.", "head.", new_name)
        block = re.match(r"decoder\.blocks\.(\w+)\.(conv\d)\.([01])\.", name)
        if block:
            layer = ("convolution", "norm")[int(block[3])]
            new_name = f"{names[block[1]]}.{block[2]}.{layer}.{name[block.end() :]}"
        converted[new_name] = value
    return converted


build = UNetPlusPlus
