"""Dilated context network: VGG16 without its last two poolings, and a module of dilated convolutions on its scores.

Paper: Yu and Koltun, Multi-Scale Context Aggregation by Dilated Convolutions, ICLR 2016,
https://arxiv.org/abs/1511.07122, table 1 (context module) and section 4 (front end).

**Differs from the paper**:
- front end and context module train together; the paper trains the front end first (here the variant
  Dilation-FrontEnd, whose weights have the same names in the whole network). So that the truncation of the context
  module does not silence half of the classes before the first step, the front end's scores start with a bias of 1;
- the mirrored border of 186 pixels is added inside the network;
- every layer of the context module pads its own input by zeros; the authors' large module pads its first layer by 33;
- the noise around the identity, which the paper leaves open, has a deviation of 0.001;
- scores are enlarged eightfold before the loss, where the authors shrink the mask for Pascal VOC.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import Weights
from segwright.encoders.vgg import VGG16
from segwright.layers.convolution import initialize_convolutions
from segwright.layers.mirror import mirror
from segwright.layers.resize import check_sides, resize_logits
from segwright.types import Paper

MARGIN = 186
"""Pixels that the unpadded convolutions take off every side: each score sees 380 x 380 pixels around its 8 x 8."""


class FrontEnd(nn.Module):
    """VGG16 as a network of convolutions without padding, at a stride of 8.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the scores.
        width: Channels of the first stage of VGG16.
        hidden_channels: Channels of fc6 and fc7.
        dropout: Share of the values dropped after fc6 and fc7.
        weights: Weights of VGG16, as `VGG16` has them; fc6 and fc7 start from its classifier.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, width: int, hidden_channels: int, dropout: float, weights: Weights
    ) -> None:
        super().__init__()
        self.vgg = VGG16(in_channels, dilation=2, first_padding=0, padded=False, width=width, weights=weights)
        fc6 = nn.Conv2d(self.vgg.channels[-1], hidden_channels, 7, dilation=4)
        fc7 = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.fc6 = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(fc7, nn.ReLU(), nn.Dropout(dropout))
        self.final = nn.Conv2d(hidden_channels, num_classes, 1)
        initialize_convolutions(self.fc6)
        initialize_convolutions(self.fc7)
        self.vgg.hand_over(fc6, fc7)
        nn.init.normal_(self.final.weight, std=0.001)
        nn.init.ones_(self.final.bias)  # type: ignore[arg-type] # it has one

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        """Scores of every cell of 8 x 8 pixels, from the image and its mirror image around it."""
        x = mirror(image, MARGIN, MARGIN, MARGIN, MARGIN)  # B C H+372 W+372
        for number, stage in enumerate(self.vgg.stages):
            x = stage(x)  # B D h-4 w-4, h-6 w-6 from the third stage on, and h-12 w-12 in the fifth
            if number < 3:
                x = F.max_pool2d(x, 2)  # B D h/2 w/2
        scores: Tensor = self.final(self.fc7(self.fc6(x)))  # B K H/8 W/8
        return scores


def initialize_identity(convolution: nn.Conv2d, num_classes: int, noise: float) -> None:
    """Let a convolution hand on its input: the channels of a class share one weight at the center, the rest is noise.

    Source: section 3 of the paper, for as many channels as classes and for multiples of them.
    """
    weight = convolution.weight
    class_of_out, class_of_in = (torch.arange(count) * num_classes // count for count in weight.shape[:2])
    is_same = class_of_out[:, None] == class_of_in
    with torch.no_grad():
        nn.init.normal_(weight, std=noise)
        center = weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
        center.copy_(torch.where(is_same, num_classes / len(weight), center))
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type] # it has one


class ContextModule(nn.Module):
    """Convolutions of 3 x 3 whose dilation grows, each with a truncation at zero, and one of 1 x 1 (table 1).

    Args:
        num_classes: Channels that come in and go out.
        dilations: Of the 3 x 3 convolutions in cells.
        is_large: Whether the channels double with the dilation, from twice to 32 times the classes at a dilation of 16.
        noise: Standard deviation of the weights that are not of the identity.
    """

    def __init__(
        self, num_classes: int, dilations: Sequence[int], *, is_large: bool = False, noise: float = 0.001
    ) -> None:
        super().__init__()
        widths = [2 * num_classes * largest if is_large else num_classes for largest in accumulate(dilations, max)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, channels, 3, padding=dilation, dilation=dilation), nn.ReLU())
            for before, channels, dilation in zip((num_classes, *widths), widths, dilations, strict=False)
        )
        self.final = nn.Conv2d(widths[-1], num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                initialize_identity(module, num_classes, noise)

    def forward(self, scores: Float[Tensor, "B K H W"]) -> Float[Tensor, "B K H W"]:
        """Scores that have seen their surroundings."""
        for layer in self.layers:
            scores = layer(scores)  # B K H W, or B 2K to 32K H W in the large one
        result: Tensor = self.final(scores)  # B K H W
        return result


class DilatedContext(nn.Module):
    """The front end of section 4 and the context module of table 1; the defaults are the authors' Dilation8.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        context: "basic" keeps the channels, "large" multiplies them, "none" is the front end alone.
        dilations: Of the 3 x 3 convolutions of the context module in cells.
        width: Channels of the first stage of VGG16, of which the others have 2, 4, 8 and 8 times as many.
        hidden_channels: Channels of fc6 and fc7.
        dropout: Share of the values dropped after fc6 and fc7.
        weights: Weights of VGG16, as `VGG16` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        context: Literal["basic", "large", "none"] = "basic",
        dilations: Sequence[int] = (1, 1, 2, 4, 8, 16, 1),
        width: int = 64,
        hidden_channels: int = 4096,
        dropout: float = 0.5,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        self.front_end = FrontEnd(
            in_channels, num_classes, width=width, hidden_channels=hidden_channels, dropout=dropout, weights=weights
        )
        self.context = None
        if context != "none":
            self.context = ContextModule(num_classes, dilations, is_large=context == "large")

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "DilatedContext")
        scores = self.front_end(image)  # B K H/8 W/8
        if self.context is not None:
            scores = self.context(scores)
        return resize_logits(scores, image.shape[-2:])  # B K H W


NAME = "Dilated context network"
PAPER = Paper(
    "Yu and Koltun",
    "Multi-Scale Context Aggregation by Dilated Convolutions",
    "ICLR",
    2016,
    "https://arxiv.org/abs/1511.07122",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "Dilation8": {"context": "basic"},
    "Dilation8-large": {"context": "large"},
    "Dilation7": {"dilations": (1, 1, 2, 4, 8, 1)},
    "Dilation10": {"dilations": (1, 1, 2, 4, 8, 16, 32, 64, 1)},
    "Dilation-FrontEnd": {"context": "none"},
}
PARAMETERS = {
    ("Dilation8", 3, 21): 134_374_973,
    ("Dilation8-large", 3, 21): 141_149_720,
    ("Dilation10", 3, 19): 134_368_179,
    ("Dilation-FrontEnd", 3, 21): 134_346_581,
}
"""Counted from the authors' Caffe files; the basic context module has about 64 K², as the paper says."""

build = DilatedContext
