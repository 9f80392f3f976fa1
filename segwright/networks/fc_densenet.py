"""FC-DenseNet, the Tiramisu: dense blocks on the way down and up, of which only the new maps are enlarged.

Paper: Jégou, Drozdzal, Vazquez, Romero and Bengio, The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for
Semantic Segmentation, CVPR Workshops 2017, https://arxiv.org/abs/1611.09326; the network is figure 1, the blocks
figure 2 and table 1, the layers table 2.

**Differs from the paper**:
- the widths of the way up in table 2 (1072 and so on) are each 16 too low, as the authors' code shows: they are 1088,
  816, 576, 384 and 256 in FC-DenseNet103;
- FC-DenseNet56 has 1.4 million parameters, as the authors' code has; the paper says 1.5;
- batch normalization has running statistics in evaluation, where the authors use those of the test batch;
- the last convolution starts with smaller weights than the others.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper


def _layer(in_channels: int, channels: int, kernel_size: int, dropout: float, momentum: float = 0.1) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2),
        nn.Dropout(dropout),
    )


def _transition_down(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*_layer(channels, channels, 1, dropout), nn.MaxPool2d(2))


class DenseLayer(nn.Module):
    """A layer that joins the maps it is given; its own are `growth` channels."""

    def __init__(self, in_channels: int, growth: int, dropout: float, momentum: float) -> None:
        super().__init__()
        self.layer = _layer(in_channels, growth, 3, dropout, momentum)

    def forward(self, *maps: Float[Tensor, "B _ H W"]) -> Float[Tensor, "B C H W"]:
        """Join, then BN, ReLU, convolution and dropout."""
        result: Tensor = self.layer(torch.cat(maps, dim=1))  # B growth H W
        return result


class DenseBlock(nn.Module):
    """Layers that each see the block's input and the maps of all layers before; the new maps are the result.

    Args:
        in_channels: Channels that come in.
        num_layers: Layers of the block.
        growth: Channels that each layer adds.
        dropout: Share of the values of each layer that are dropped in training.
        checkpointing: Whether training keeps only the new maps and computes the rest again on the way back.
    """

    def __init__(self, in_channels: int, num_layers: int, growth: int, dropout: float, *, checkpointing: bool) -> None:
        super().__init__()
        # A layer that runs twice takes two steps towards the same statistics, which together make the usual one.
        momentum = 1 - math.sqrt(1 - 0.1) if checkpointing else 0.1
        widths = [in_channels + number * growth for number in range(num_layers)]
        self.layers = nn.ModuleList(DenseLayer(width, growth, dropout, momentum) for width in widths)
        self.checkpointing = checkpointing

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Maps of all layers, without the block's input."""
        maps = [x]
        for layer in self.layers:
            if self.checkpointing and self.training:
                maps.append(checkpoint(layer, *maps, use_reentrant=False))  # B growth H W
            else:
                maps.append(layer(*maps))  # B growth H W
        return torch.cat(maps[1:], dim=1)  # B growth·layers H W


class TransitionUp(nn.Module):
    """Transposed 3 x 3 convolution of the new maps, joined with the map of the way down."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(channels, channels, 3, stride=2)

    def forward(
        self, new: Float[Tensor, "B C H W"], skip: Float[Tensor, "B D 2*H 2*W"]
    ) -> Float[Tensor, "B E 2*H 2*W"]:
        """Double the size, join."""
        up = self.convolution(new)[..., :-1, :-1]  # B C 2H 2W
        return torch.cat([up, skip], dim=1)  # B C+D 2H 2W


def _initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.constant_(module.bias, 0)  # type: ignore[arg-type] # all have one


class FCDenseNet(nn.Module):
    """The network of figure 1; the defaults are FC-DenseNet103.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        layers: Layers of each dense block: way down, bottleneck, way up.
        growth: Channels that each layer adds.
        first_channels: Channels of the first convolution.
        dropout: Share of the values of each layer that are dropped in training.
        checkpointing: Whether training computes the layers of the dense blocks twice, with the same result, instead of
            keeping their joined maps: more time and less memory.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        layers: Sequence[int] = (4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4),
        growth: int = 16,
        first_channels: int = 48,
        dropout: float = 0.2,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(layers) % 2 == 0:
            raise ValueError(
                f"layers has {len(layers)} blocks, but FCDenseNet needs an odd number of them; "
                "give as many up as down, and the bottleneck between"
            )
        depth = len(layers) // 2
        self.stride = 2**depth  # type: ignore[misc] # the class has that of eleven blocks
        dense_block = partial(DenseBlock, growth=growth, dropout=dropout, checkpointing=checkpointing)
        # Channels into each block of the way down and the bottleneck; new ones out of the bottleneck and the blocks
        # above it; channels into each block of the way up.
        down = [first_channels + growth * sum(layers[:number]) for number in range(depth + 1)]
        new = [growth * num_layers for num_layers in layers[depth:]]
        up = [below + skip for below, skip in zip(new[:-1], reversed(down[1:]), strict=True)]
        self.first = nn.Conv2d(in_channels, first_channels, 3, padding=1)
        self.down_blocks = nn.ModuleList(map(dense_block, down, layers[:depth]))
        self.transitions_down = nn.ModuleList(_transition_down(channels, dropout) for channels in down[1:])
        self.bottleneck = dense_block(down[-1], layers[depth])
        self.transitions_up = nn.ModuleList(TransitionUp(channels) for channels in new[:-1])
        self.up_blocks = nn.ModuleList(map(dense_block, up, layers[depth + 1 :]))
        self.classifier = nn.Conv2d(up[-1] + new[-1], num_classes, 1)
        _initialize(self)
        initialize_classifier(self.classifier)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "FCDenseNet")
        x = self.first(image)  # B 48 H W
        skips = []
        for block, transition_down in zip(self.down_blocks, self.transitions_down, strict=True):
            skips.append(torch.cat([x, block(x)], dim=1))  # B C+growth·layers h w
            x = transition_down(skips[-1])  # B C+growth·layers h/2 w/2

        new = self.bottleneck(x)  # B growth·layers H/32 W/32
        for transition_up, block in zip(self.transitions_up, self.up_blocks, strict=True):
            x = transition_up(new, skips.pop())  # B D 2h 2w
            new = block(x)  # B growth·layers 2h 2w
        logits: Tensor = self.classifier(torch.cat([x, new], dim=1))  # B K H W
        return logits


NAME = "FC-DenseNet"
PAPER = Paper(
    "Jégou, Drozdzal, Vazquez, Romero and Bengio",
    "The One Hundred Layers Tiramisu: Fully Convolutional DenseNets for Semantic Segmentation",
    "CVPR-W",
    2017,
    "https://arxiv.org/abs/1611.09326",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "FC-DenseNet103": {},
    "FC-DenseNet67": {"layers": (5,) * 11, "growth": 16},
    "FC-DenseNet56": {"layers": (4,) * 11, "growth": 12},
}
PARAMETERS = {
    ("FC-DenseNet103", 3, 11): 9_322_091,
    ("FC-DenseNet67", 3, 11): 3_463_243,
    ("FC-DenseNet56", 3, 11): 1_376_795,
}
"""As in the authors' code; 9.4 (with the statistics of the normalizations), 3.5 and 1.5 million in table 3."""

build = FCDenseNet
