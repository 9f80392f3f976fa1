"""Autofocus: convolutions that choose for each pixel, by attention, among four dilations of one kernel.

Paper: Qin et al., Autofocus Layer for Semantic Segmentation, MICCAI 2018, https://arxiv.org/abs/1805.08403; the layer
is figure 1, the networks AFN1 to AFN6 those of section 2.3.

**Differs from the paper**:
- the network is two-dimensional, where the authors' takes volumes;
- every convolution is padded with zeros and keeps the size; the authors pad only the wide dilations, to the size of the
  narrowest, so that their logits lack 14 voxels on each side;
- convolutions in front of a normalization have no bias, which it would cancel.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import ConvNormReLU
from segwright.layers.resize import check_sides
from segwright.types import Paper


class AutofocusConvolution(nn.Module):
    """One 3 x 3 kernel at several dilations, each normalized for itself, weighted by attention and summed (figure 1).

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        dilations: Distances between the taps of the kernel in pixels, one a branch.
    """

    def __init__(self, in_channels: int, out_channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.dilations = tuple(dilations)
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in dilations)
        self.attention = nn.Sequential(
            nn.Conv2d(in_channels, in_channels // 2, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(in_channels // 2, len(dilations), 1),
            nn.Softmax(dim=1),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Attention times branches, summed."""
        # Detached: what the attention learns does not change the features that it looks at.
        shares = self.attention(x.detach()).split(1, dim=1)  # B 1 H W for each branch
        weight: Tensor = self.weight
        if self.training:  # as layers/bfloat16.py does for convolutions that are modules
            x, weight = x.contiguous(), weight.contiguous()
        first, *others = (
            share * norm(F.conv2d(x, weight, padding=dilation, dilation=dilation))  # B D H W
            for share, norm, dilation in zip(shares, self.norms, self.dilations, strict=True)
        )
        result: Tensor = sum(others, start=first)  # B D H W
        return result


def _convolution(in_channels: int, out_channels: int, dilations: Sequence[int], autofocus: bool) -> nn.Module:
    if autofocus:
        return AutofocusConvolution(in_channels, out_channels, dilations)
    rate = dilations[0]
    plain = nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False)
    return nn.Sequential(plain, nn.BatchNorm2d(out_channels))


class ResidualBlock(nn.Module):
    """Two normalized convolutions and a shortcut.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        dilations: Dilations of an autofocus convolution; a plain one has the first.
        autofocus: Whether the two convolutions have autofocus.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilations: Sequence[int], autofocus: tuple[bool, bool]
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, dilations, autofocus[0])
        self.activation1 = nn.ReLU()
        self.conv2 = _convolution(out_channels, out_channels, dilations, autofocus[1])
        self.activation2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            widen = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(widen, nn.BatchNorm2d(out_channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Path plus shortcut."""
        path = self.conv2(self.activation1(self.conv1(x)))  # B D H W
        result: Tensor = self.activation2(path + self.shortcut(x))
        return result


class AFN(nn.Module):
    """Two plain convolutions and residual blocks, all at the image's size; the defaults are AFN6.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        autofocus_layers: How many convolutions of the residual blocks have autofocus, counted from the last.
        widths: Channels of the first two convolutions and of each residual block.
        dilations: Dilations that autofocus chooses from; the other convolutions of the blocks have the first.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        autofocus_layers: int = 6,
        widths: Sequence[int] = (30, 40, 40, 50),
        dilations: Sequence[int] = (2, 6, 10, 14),
    ) -> None:
        super().__init__()
        num_layers = 2 * (len(widths) - 1)
        if not 0 <= autofocus_layers <= num_layers:
            raise ValueError(
                f"autofocus_layers is {autofocus_layers}, but {len(widths) - 1} residual blocks have {num_layers} "
                f"convolutions; give 0 to {num_layers}"
            )
        self.stem = nn.Sequential(ConvNormReLU(in_channels, widths[0]), ConvNormReLU(widths[0], widths[0]))
        self.blocks = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            later = num_layers - 2 * number  # convolutions in the blocks that follow
            autofocus = autofocus_layers > later + 1, autofocus_layers > later
            self.blocks.append(ResidualBlock(before, after, dilations, autofocus))
        self.head = nn.Conv2d(widths[-1], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | AutofocusConvolution):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "AFN")
        logits: Tensor = self.head(self.blocks(self.stem(image)))  # B K H W
        return logits


NAME = "Autofocus"
PAPER = Paper(
    "Qin et al.", "Autofocus Layer for Semantic Segmentation", "MICCAI", 2018, "https://arxiv.org/abs/1805.08403"
)
VARIANTS: dict[str, dict[str, Any]] = {f"AFN{number}": {"autofocus_layers": number} for number in (6, 5, 4, 3, 2, 1)}
PARAMETERS = {
    ("AFN6", 4, 5): 154_239,
    ("AFN5", 4, 5): 149_870,
    ("AFN4", 4, 5): 142_326,
    ("AFN3", 4, 5): 134_782,
    ("AFN2", 4, 5): 127_238,
    ("AFN1", 4, 5): 119_634,
}
"""As the authors' code would have with two-dimensional kernels, less the biases that the normalizations cancel."""

build = AFN
