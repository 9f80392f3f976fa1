"""Attention U-Net: a U-Net whose coarser features decide which pixels of a skip pass.

Paper: Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018,
https://arxiv.org/abs/1804.03999; the network is figure 1, the gate figure 2.

**Differs from the paper** (from the second point on as in the authors' code, whose parameter counts are met):
- images by default; `dimensions=3` has the volumes of the paper;
- a 1 x 1 convolution and a normalization follow the product inside a gate, and another 1 x 1 convolution,
  normalization and ReLU follow the gate; "multi" has two gates beside each other on a skip, where figure 1 has one;
- the center passes a 1 x 1 convolution, normalization and ReLU before it steers the deepest gate;
- maps are enlarged linearly, without weights of their own, and the widths are a quarter of U-Net's;
- deep supervision has no loss of its own: the logits of all four steps of the decoder are enlarged, and a 1 x 1
  convolution mixes them;
- all convolutions but θ have a bias, also those before a normalization, which cancels it.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper

Dimensions = Literal[2, 3]
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL: dict[int, Any] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
GATES = {"none": 0, "single": 1, "multi": 2}  # on a skip


def _resize(x: Float[Tensor, "B C *s"], size: Sequence[int]) -> Float[Tensor, "B C *S"]:
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=False)


def _convolution_norm_relu(in_channels: int, out_channels: int, side: int, dimensions: Dimensions) -> nn.Sequential:
    convolution = CONVOLUTION[dimensions](in_channels, out_channels, side, padding=side // 2)
    return nn.Sequential(convolution, NORM[dimensions](out_channels), nn.ReLU())


def _two_convolutions(in_channels: int, out_channels: int, dimensions: Dimensions) -> nn.Sequential:
    return nn.Sequential(
        _convolution_norm_relu(in_channels, out_channels, 3, dimensions),
        _convolution_norm_relu(out_channels, out_channels, 3, dimensions),
    )


class GridAttention(nn.Module):
    """Additive attention gate: one weight a pixel, from a skip and from coarser features (figure 2).

    Args:
        channels: Channels of the skip.
        gating_channels: Channels of the gating features, which have half the size.
        dimensions: 2 for images, 3 for volumes.
    """

    def __init__(self, channels: int, gating_channels: int, dimensions: Dimensions) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        self.theta = convolution(channels, channels, 2, stride=2, bias=False)
        self.phi = convolution(gating_channels, channels, 1)
        self.activation = nn.ReLU()
        self.psi = convolution(channels, 1, 1)
        self.gate = nn.Sigmoid()
        self.output = nn.Sequential(convolution(channels, channels, 1), NORM[dimensions](channels))

    def forward(self, skip: Float[Tensor, "B C *S"], gating: Float[Tensor, "B D *s"]) -> Float[Tensor, "B C *S"]:
        """Weight the pixels of the skip."""
        result: Tensor = self.output(self.coefficients(skip, gating) * skip)
        return result

    def coefficients(self, skip: Float[Tensor, "B C *S"], gating: Float[Tensor, "B D *s"]) -> Float[Tensor, "B 1 *S"]:
        """The attention coefficients α, in (0, 1)."""
        summed = self.activation(self.theta(skip) + self.phi(gating))  # B C S/2
        return _resize(self.gate(self.psi(summed)), skip.shape[2:])  # B 1 S


class SkipAttention(nn.Module):
    """One gate on a skip, or several beside each other, combined."""

    def __init__(self, gates: int, channels: int, gating_channels: int, dimensions: Dimensions) -> None:
        super().__init__()
        self.gates = nn.ModuleList(GridAttention(channels, gating_channels, dimensions) for _ in range(gates))
        self.combine = _convolution_norm_relu(gates * channels, channels, 1, dimensions)

    def forward(self, skip: Float[Tensor, "B C *S"], gating: Float[Tensor, "B D *s"]) -> Float[Tensor, "B C *S"]:
        """Gate, join, combine."""
        result: Tensor = self.combine(torch.cat([gate(skip, gating) for gate in self.gates], dim=1))
        return result


class DecoderStep(nn.Module):
    """Gate the skip, enlarge what comes from below, join, filter.

    Args:
        in_channels: Channels from below, and of the gating features.
        channels: Channels of the skip and of the result.
        gates: Gates on the skip; 0 lets it pass.
        dimensions: 2 for images, 3 for volumes.
    """

    def __init__(self, in_channels: int, channels: int, gates: int, dimensions: Dimensions) -> None:
        super().__init__()
        self.attention = SkipAttention(gates, channels, in_channels, dimensions) if gates else None
        self.filter = _two_convolutions(channels + in_channels, channels, dimensions)

    def forward(
        self, x: Float[Tensor, "B D *s"], skip: Float[Tensor, "B C *S"], gating: Float[Tensor, "B D *s"]
    ) -> Float[Tensor, "B C *S"]:
        """One step up."""
        if self.attention is not None:
            skip = self.attention(skip, gating)
        result: Tensor = self.filter(torch.cat([skip, _resize(x, skip.shape[2:])], dim=1))  # B C S
        return result


class AttentionUNet(nn.Module):
    """The network of figure 1.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        attention: Gates on the three coarser skips: "none", one ("single") or two ("multi") for each.
        widths: Channels of the five levels, fine to coarse.
        dimensions: 2 for images, 3 for volumes, whose sides may be any from 16.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        attention: Literal["none", "single", "multi"] = "multi",
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dimensions: Dimensions = 2,
    ) -> None:
        super().__init__()
        if len(widths) != 5:
            raise ValueError(f"widths has {len(widths)} numbers, but AttentionUNet needs 5, one for each level")
        self.dimensions = dimensions
        self.takes = "image" if dimensions == 2 else "volume"  # type: ignore[misc] # this one's own
        levels = range(len(widths) - 1)
        self.encoder = nn.ModuleList([_two_convolutions(in_channels, widths[0], dimensions)])
        self.encoder.extend(
            nn.Sequential(POOL[dimensions](2), _two_convolutions(widths[level], widths[level + 1], dimensions))
            for level in levels
        )
        gates = GATES[attention]
        self.gating = _convolution_norm_relu(widths[-1], widths[-1], 1, dimensions) if gates else nn.Identity()
        self.decoder = nn.ModuleList(
            # The finest skip has no gate: it shows too little of what is in the image.
            DecoderStep(widths[level + 1], widths[level], gates if level else 0, dimensions)
            for level in reversed(levels)
        )
        self.heads = nn.ModuleList(CONVOLUTION[dimensions](widths[level], num_classes, 1) for level in reversed(levels))
        self.final = CONVOLUTION[dimensions](len(levels) * num_classes, num_classes, 1)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # as in the authors' code
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        initialize_classifier(self.final)

    def forward(self, image: Float[Tensor, "B C *S"]) -> Float[Tensor, "B K *S"]:
        """Logits at the image's size."""
        if self.dimensions == 2:
            check_sides(image, self.stride, "AttentionUNet")
        x, skips = image, []
        for level in self.encoder:
            x = level(x)  # B widths[l] S/2^l
            skips.append(x)
        skips.pop()
        gating = self.gating(x)  # B 256 S/16
        outputs = []
        for step, head in zip(self.decoder, self.heads, strict=True):
            x = gating = step(x, skips.pop(), gating)  # B widths[l] S/2^l
            outputs.append(_resize(head(x), image.shape[2:]))  # B K S
        logits: Tensor = self.final(torch.cat(outputs, dim=1))  # B K S
        return logits


NAME = "Attention U-Net"
PAPER = Paper(
    "Oktay et al.",
    "Attention U-Net: Learning Where to Look for the Pancreas",
    "MIDL",
    2018,
    "https://arxiv.org/abs/1804.03999",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "Attention-UNet": {},
    "Attention-UNet-Single": {"attention": "single"},
    "Attention-UNet-3D": {"dimensions": 3},
    "Attention-UNet-3D-Single": {"dimensions": 3, "attention": "single"},
    "Attention-UNet-3D-None": {"dimensions": 3, "attention": "none"},
}
PARAMETERS = {
    ("Attention-UNet-3D", 1, 2): 6_472_784,
    ("Attention-UNet-3D-Single", 1, 2): 6_213_613,
    ("Attention-UNet-3D-None", 1, 2): 5_887_466,
}
"""As in the authors' code, which has volumes only."""

build = AttentionUNet
