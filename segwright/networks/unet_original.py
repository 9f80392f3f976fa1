"""The U-Net of 2015: unpadded convolutions, and an expansive path that joins the cropped maps of the contracting path.

Paper: Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
https://arxiv.org/abs/1505.04597, figure 1; the mirrored border is figure 2.

**Differs from the paper**:
- `forward` mirrors the image itself, so that the logits have its size; `forward_valid` is the bare figure 1;
- dropout of one half ends the two deepest levels of the contracting path: the paper gives neither place nor share;
- no ReLU follows an up-convolution and the copy comes before it, as in figure 1;
- the weights of the last convolution start smaller, so that all classes are about as likely;
- `padding="same"` and `norm` build what is widely called U-Net; the paper has neither.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier
from segwright.layers.mirror import mirror
from segwright.layers.resize import check_sides
from segwright.types import Paper

Padding = Literal["valid", "same"]


class TwoConvolutions(nn.Sequential):
    """Two times 3 x 3 convolution, normalization if wanted, ReLU; unpadded, each takes a pixel off every side."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding, *, norm: bool, bias: bool) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=padding, bias=bias))
            if norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU())
        super().__init__(*layers)


def crop(x: Float[Tensor, "B C _ _"], height: int, width: int) -> Float[Tensor, "B C H W"]:
    """The center of a map."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


class UpStep(nn.Module):
    """One step of the expansive path: up-convolution, copy and crop, two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, padding: Padding, *, norm: bool, bias: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convolutions = TwoConvolutions(2 * out_channels, out_channels, padding, norm=norm, bias=bias)

    def forward(self, x: Float[Tensor, "B C H W"], copy: Float[Tensor, "B D _ _"]) -> Float[Tensor, "B D _ _"]:
        """Double the size, join the center of the copy, convolve."""
        x = self.up(x)  # B D 2H 2W
        joined = torch.cat([crop(copy, *x.shape[-2:]), x], dim=1)  # B 2D 2H 2W
        result: Tensor = self.convolutions(joined)  # B D 2H-4 2W-4, or with padding B D 2H 2W
        return result


class UNet(nn.Module):
    """The network of figure 1.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        padding: "valid" for the paper's unpadded convolutions, "same" for zeros around every map.
        depth: Steps down, and up again.
        width: Channels of the first map; each step down doubles them.
        norm: Whether batch normalization follows each 3 x 3 convolution.
        bias: Whether the 3 x 3 convolutions have a bias, which a normalization would cancel.
        dropout: Share of the values that are dropped in training at the end of the contracting path.

    Attributes:
        margin: Pixels of context that `forward_valid` needs on each side of its logits; 0 with padding.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        padding: Padding = "valid",
        depth: int = 4,
        width: int = 64,
        norm: bool = False,
        bias: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth is {depth}, but UNet needs a depth of 1 or more")
        self.stride = 2**depth  # type: ignore[misc] # the class has that of figure 1
        # Two convolutions at stride s take 2·s pixels off each side: those of the way down, of the way up, the bottom.
        self.margin = 4 * (self.stride - 1) + 2 * self.stride if padding == "valid" else 0
        widths = [width * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            TwoConvolutions(channels, out_channels, padding, norm=norm, bias=bias)
            for channels, out_channels in zip((in_channels, *widths), widths, strict=False)
        )
        self.dropouts = nn.ModuleList(nn.Dropout(dropout if level >= depth - 1 else 0) for level in range(depth + 1))
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(depth))
        self.expansive = nn.ModuleList(
            UpStep(2 * channels, channels, padding, norm=norm, bias=bias) for channels in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        _initialize(self)
        if norm:
            initialize_classifier(self.head)
        else:  # every pool takes maxima, so the maps grow, several times over the whole way
            nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size; without padding, the image goes on beyond its border as its mirror image."""
        check_sides(image, self.stride, "UNet")
        if self.margin == 0:
            return self._logits(image)
        # The next size that halves evenly is larger by up to 4. Half of that on each side keeps the pooling grid
        # symmetric, and its phase the same for all tiles that start at multiples of the stride.
        border = self.margin + 4 % self.stride // 2
        logits = self._logits(mirror(image, border, border, border, border))  # B K H+4 W+4, for depths from 3
        return crop(logits, *image.shape[-2:])  # B K H W

    def forward_valid(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K _ _"]:
        """Logits of the pixels at `margin` or more from the border: 388 x 388 of 572 x 572.

        Raises:
            ValueError: If the convolutions are padded, or if a map does not halve evenly; the message has the size.
        """
        if self.margin == 0:
            raise ValueError("forward_valid was called with padding 'same', but needs 'valid'; use forward")
        height, width = image.shape[-2:]
        smallest = 2 * self.margin + min(4, self.stride)
        fitting = [smallest + max(-((smallest - side) // self.stride), 0) * self.stride for side in (height, width)]
        if fitting != [height, width]:
            raise ValueError(
                f"image is {height} x {width}, but forward_valid needs sides of {smallest} plus a multiple of "
                f"{self.stride}; use {fitting[0]} x {fitting[1]}"
            )
        return self._logits(image)  # B K H-2·margin W-2·margin

    def _logits(self, x: Tensor) -> Tensor:
        copies: list[Tensor] = []
        for level, (convolutions, dropout) in enumerate(zip(self.contracting, self.dropouts, strict=True)):
            if level > 0:
                x = self.pools[level - 1](x)  # B C H/2^level W/2^level
            x = dropout(convolutions(x))  # B width·2^level _ _
            copies.append(x)
        for step, copy in zip(self.expansive, reversed(copies[:-1]), strict=True):
            x = step(x, copy)  # B width·2^level _ _
        logits: Tensor = self.head(x)
        return logits


def _initialize(network: nn.Module) -> None:
    """Draw weights from N(0, 2 / N), N being the values that one value of a map is made of (section 3 of the paper)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # An up-convolution's kernels do not overlap: one value is made of one pixel.
            taps = 1 if isinstance(module, nn.ConvTranspose2d) else module.weight[0, 0].numel()
            nn.init.normal_(module.weight, std=(2 / (module.in_channels * taps)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


NAME = "U-Net (2015)"
PAPER = Paper(
    "Ronneberger, Fischer and Brox",
    "U-Net: Convolutional Networks for Biomedical Image Segmentation",
    "MICCAI",
    2015,
    "https://arxiv.org/abs/1505.04597",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "UNet-Original": {},
    "UNet-Same": {"padding": "same", "norm": True, "bias": False, "dropout": 0.0},
    "UNet-Same-Bias": {"padding": "same", "norm": True, "dropout": 0.0},
    "UNet-Same-32": {"padding": "same", "width": 32},
    "Wide-UNet": {"padding": "same", "width": 35},
}
PARAMETERS = {
    ("UNet-Original", 1, 2): 31_030_658,
    ("UNet-Original", 1, 1): 31_030_593,
    ("UNet-Original", 3, 1): 31_031_745,
    ("UNet-Same", 3, 2): 31_037_698,
    ("UNet-Same-Bias", 3, 2): 31_043_586,
    ("UNet-Same-32", 1, 1): 7_759_521,
    ("UNet-Same-32", 3, 1): 7_760_097,
    ("Wide-UNet", 1, 1): 9_282_246,
}
"""Counted by others: milesial/Pytorch-UNet (Same) and the authors of UNet++ (Same-32, Wide); the paper has none."""

build = UNet
