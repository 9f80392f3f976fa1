"""RefineNet: four blocks join the maps of an encoder from coarse to fine, along paths that stay linear.

Paper: Lin, Milan, Shen and Reid, RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation,
CVPR 2017, https://arxiv.org/abs/1611.06612; the cascade is figure 2c, a block figure 3.

**Differs from the paper** (where it does, as in the authors' code):
- the units before the fusion are on the path from the encoder only, not on that from the coarser block;
- of a unit's two convolutions only the first has a bias, and the convolutions outside the units have none;
- the encoder's maps at 1/32 and 1/16 are dropped out too in training;
- the encoder's batch normalization learns; the authors freeze it and train on one image at a time.
The authors' models have three units in every output and, by choice, four pools (the paper: one, two more in the last
block, and two pools); arguments reach that form.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.types import Paper

STRIDES = (32, 16, 8, 4)  # of the encoder's maps, which blocks 4, 3, 2 and 1 take


def _convolution(in_channels: int, out_channels: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)


class RCU(nn.Module):
    """Residual convolution unit: a residual unit without batch normalization (figure 3b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.ReLU(), _convolution(channels, channels, bias=True), nn.ReLU(), _convolution(channels, channels)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Add the path; no ReLU follows, so that the identity reaches from block to block."""
        result: Tensor = x + self.path(x)
        return result


class MultiResolutionFusion(nn.Module):
    """Sum of two maps in the width of the narrower and the size of the larger (figure 3c)."""

    def __init__(self, fine_channels: int, coarse_channels: int) -> None:
        super().__init__()
        self.out_channels = min(fine_channels, coarse_channels)
        self.fine = _convolution(fine_channels, self.out_channels)
        self.coarse = _convolution(coarse_channels, self.out_channels)

    def forward(self, fine: Float[Tensor, "B C H W"], coarse: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E H W"]:
        """Filter both, enlarge the coarse one, add."""
        fine = self.fine(fine)  # B E H W
        return fine + resize(self.coarse(coarse), fine.shape[-2:])  # B E H W


class ChainedResidualPooling(nn.Module):
    """Maxima over wider and wider windows, each filtered and added to the map (figure 3d)."""

    def __init__(self, channels: int, pools: int) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.chain = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(5, stride=1, padding=2), _convolution(channels, channels)) for _ in range(pools)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Rectify, then pool and filter again and again, and add up what comes by."""
        x = path = self.activation(x)
        for pool in self.chain:
            path = pool(path)
            x = x + path
        return x


class RefineNetBlock(nn.Module):
    """The block of figure 3a.

    Args:
        in_channels: Channels of the encoder's map.
        channels: Width to which that map is adapted.
        coarse_channels: Channels from the coarser block; 0 for the coarsest block, which has nothing to fuse.
        pools: Pools of the chain.
        output_units: Residual convolution units after the pooling.
        dropout: Share of the values of the encoder's map that are dropped in training.
    """

    def __init__(
        self, in_channels: int, channels: int, coarse_channels: int, *, pools: int, output_units: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.adapt = nn.Sequential(_convolution(in_channels, channels), RCU(channels), RCU(channels))
        self.fusion = MultiResolutionFusion(channels, coarse_channels) if coarse_channels else None
        self.out_channels = channels if self.fusion is None else self.fusion.out_channels
        self.pooling = ChainedResidualPooling(self.out_channels, pools)
        self.output = nn.Sequential(*(RCU(self.out_channels) for _ in range(output_units)))

    def forward(self, x: Float[Tensor, "B C H W"], coarse: Float[Tensor, "B D h w"] | None) -> Float[Tensor, "B E H W"]:
        """Adapt, fuse, pool, refine."""
        x = self.adapt(self.dropout(x))  # B channels H W
        if self.fusion is not None:
            x = self.fusion(x, coarse)  # B E H W
        result: Tensor = self.output(self.pooling(x))
        return result


class RefineNet(nn.Module):
    """The cascade of four blocks of figure 2c.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with the strides 4, 8, 16 and 32.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        widths: Channels of the four blocks, coarse to fine.
        pools: Pools of each chain.
        output_units: Residual convolution units at the end of each block, coarse to fine.
        dropout: Share of the values that are dropped in training: of the encoder's two coarsest maps, and before the
            last convolution.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet50",
        weights: Weights = "auto",
        widths: Sequence[int] = (512, 256, 256, 256),
        pools: int = 2,
        output_units: Sequence[int] = (1, 1, 1, 3),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, values in (("widths", widths), ("output_units", output_units)):
            if len(values) != len(STRIDES):
                raise ValueError(f"{name} has {len(values)} values, but RefineNet needs {len(STRIDES)}, one a block")
        self.encoder = make_encoder(encoder, in_channels, STRIDES, weights=weights)
        self.blocks = nn.ModuleList()
        coarse_channels = 0
        for stride, encoded, width, units in zip(STRIDES, self.encoder.channels, widths, output_units, strict=True):
            share = dropout if stride in STRIDES[:2] else 0.0
            block = RefineNetBlock(encoded, width, coarse_channels, pools=pools, output_units=units, dropout=share)
            self.blocks.append(block)
            coarse_channels = block.out_channels
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(coarse_channels, num_classes, 3, padding=1)
        # As the authors do; without normalization the variance of He weights would double with every unit.
        for convolution in (*self.blocks.modules(), self.head):
            if isinstance(convolution, nn.Conv2d):
                nn.init.normal_(convolution.weight, std=0.01)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "RefineNet")
        x: Tensor | None = None
        for block, encoded in zip(self.blocks, self.encoder(image), strict=True):
            x = block(encoded, x)  # B width H/stride W/stride
        return resize_logits(self.head(self.dropout(x)), image.shape[-2:])  # B K H W


NAME = "RefineNet"
PAPER = Paper(
    "Lin, Milan, Shen and Reid",
    "RefineNet: Multi-Path Refinement Networks for High-Resolution Semantic Segmentation",
    "CVPR",
    2017,
    "https://arxiv.org/abs/1611.06612",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "RefineNet-ResNet50": {"encoder": "resnet50"},
    "RefineNet-ResNet101": {"encoder": "resnet101"},
    "RefineNet-ResNet101-four-pools": {"encoder": "resnet101", "pools": 4, "output_units": (3, 3, 3, 3)},
}
PARAMETERS = {("RefineNet-ResNet101-four-pools", 3, 21): 118_052_437}
"""Of the PyTorch network that the authors' weights were carried over to."""

build = RefineNet
