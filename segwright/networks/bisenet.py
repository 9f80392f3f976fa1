"""BiSeNet: a shallow path that keeps the details, and a deep one for the context, whose maps gate themselves.

Paper: Yu et al., BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation, ECCV 2018,
https://arxiv.org/abs/1808.00897; the network is figure 2, its modules are those of figure 2 (b) and (c).

**Differs from the paper** (as in the authors' TorchSeg, whose parameter counts are met; the 49.0 and 5.8 million of
the paper's table cannot be reproduced):
- the spatial path starts with a 7 x 7 convolution and ends with a 1 x 1 one, in place of three 3 x 3 ones;
- the maps of the context path are refined by a 3 x 3 convolution after each enlargement;
- maps are enlarged with `align_corners=False`, and the auxiliary logits stay at the size of their maps;
- the context path is any encoder with the strides 16 and 32, ResNet-18 by default.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.layers.separable import SeparableConvolution
from segwright.types import Paper

STAGES = ((16, 4), (32, 8), (64, 4))
"""Width and number of the blocks of Xception39 at the strides 8, 16 and 32."""


_separable = partial(SeparableConvolution, norm_between=False)


class XceptionBlock(nn.Module):
    """Three separable convolutions and a shortcut, four times as wide at the end as in the middle."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _separable(in_channels, width, stride=stride),
            _separable(width, width),
            _separable(width, 4 * width, activation=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2:
            self.shortcut = _separable(in_channels, 4 * width, stride=stride, activation=False)
        self.activation = nn.ReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Residual and shortcut."""
        result: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return result


class Xception39(nn.Module):
    """The small context path of the paper; maps at the strides 16 and 32.

    Attributes:
        channels: Channels of the two maps.
        weights_used: Which weights it started from, in words.

    Raises:
        ValueError: If ImageNet weights are wanted, which are published nowhere in a form that fits.
    """

    def __init__(self, in_channels: int, weights: Weights = "none") -> None:
        super().__init__()
        if weights == "imagenet":
            raise ValueError("weights 'imagenet' of xception39 are not known here; use weights 'none'")
        self.weights_used = "none, random start"
        self.stem = nn.Sequential(ConvNormReLU(in_channels, 8, stride=2), nn.MaxPool2d(3, stride=2, padding=1))
        self.stages = nn.ModuleList()
        before = 8
        for width, count in STAGES:
            first = XceptionBlock(before, width, 2)
            self.stages.append(nn.Sequential(first, *(XceptionBlock(4 * width, width, 1) for _ in range(count - 1))))
            before = 4 * width
        self.channels = (4 * STAGES[1][0], 4 * STAGES[2][0])
        initialize_convolutions(self)

    def forward(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Maps at H/16 and H/32."""
        x = self.stem(image)  # B 8 H/4 W/4
        maps = []
        for stage in self.stages:
            x = stage(x)  # B 4·width H/8 W/8, H/16 W/16, H/32 W/32
            maps.append(x)
        return maps[1:]


class AttentionRefinementModule(nn.Module):
    """Channels weighted by their global averages (figure 2 b)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.filter = ConvNormReLU(in_channels, out_channels)
        self.attention = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels), nn.Sigmoid()
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Filter, average, weight."""
        x = self.filter(x)  # B D H W
        result: Tensor = x * self.attention(x.mean(dim=(2, 3), keepdim=True))
        return result


class FeatureFusionModule(nn.Module):
    """Both paths joined, and channels weighted on top (figure 2 c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.join = ConvNormReLU(channels, channels, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Float[Tensor, "B C H W"], context: Float[Tensor, "B D H W"]) -> Float[Tensor, "B E H W"]:
        """Join, and add the weighted to the unweighted."""
        x = self.join(torch.cat([spatial, context], dim=1))  # B C+D H W
        result: Tensor = x + x * self.attention(x.mean(dim=(2, 3), keepdim=True))
        return result


def _head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(ConvNormReLU(in_channels, channels), nn.Conv2d(channels, num_classes, 1))


class BiSeNet(nn.Module):
    """The network of figure 2.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: The context path: "xception39", or an encoder with the strides 16 and 32.
        weights: Weights of the encoder, as `TimmEncoder` has them; Xception39 has none but random ones.
        width: Channels of the end of either path.
        auxiliary_channels: Width of the two heads on the context path.
        auxiliary_heads: Whether to have the two heads on the context path, for training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32
    auxiliary_weight: ClassVar[float] = 1.0

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet18",
        weights: Weights = "auto",
        width: int = 128,
        auxiliary_channels: int = 256,
        auxiliary_heads: bool = True,
    ) -> None:
        super().__init__()
        self.spatial_path = nn.Sequential(
            ConvNormReLU(in_channels, width // 2, 7, stride=2),
            ConvNormReLU(width // 2, width // 2, stride=2),
            ConvNormReLU(width // 2, width // 2, stride=2),
            ConvNormReLU(width // 2, width, 1),
        )
        if encoder == "xception39":
            self.encoder: nn.Module = Xception39(in_channels, weights)
        else:
            self.encoder = make_encoder(encoder, in_channels, [16, 32], weights=weights)
        channels16, channels32 = self.encoder.channels  # type: ignore[misc] # both kinds have two
        self.tail = ConvNormReLU(channels32, width, 1)
        self.refinement32 = AttentionRefinementModule(channels32, width)
        self.refinement16 = AttentionRefinementModule(channels16, width)
        self.up32 = ConvNormReLU(width, width)
        self.up16 = ConvNormReLU(width, width)
        self.fusion = FeatureFusionModule(2 * width)
        self.head = _head(2 * width, 64, num_classes)
        self.auxiliary_heads = nn.ModuleList(
            _head(width, auxiliary_channels, num_classes) for _ in range(2 * auxiliary_heads)
        )
        for name, part in self.named_children():
            if name != "encoder":
                initialize_convolutions(part)
        for head in (self.head, *self.auxiliary_heads):
            initialize_classifier(head[-1])

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        fused, _ = self._features(image)
        return resize_logits(self.head(fused), image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of the head at the image's size, and of the context path at an eighth and a sixteenth of it."""
        fused, maps = self._features(image)
        main = resize_logits(self.head(fused), image.shape[-2:])  # B K H W
        return [main, *(head(x) for head, x in zip(self.auxiliary_heads, maps, strict=False))]

    def _features(self, image: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        check_sides(image, self.stride, "BiSeNet")
        spatial = self.spatial_path(image)  # B width H/8 W/8
        map16, map32 = self.encoder(image)  # B C16 H/16 W/16 and B C32 H/32 W/32
        average = self.tail(map32.mean(dim=(2, 3), keepdim=True))  # B width 1 1
        x = self.refinement32(map32) + average  # B width H/32 W/32
        context16 = self.up32(resize(x, map16.shape[-2:]))  # B width H/16 W/16
        x = self.refinement16(map16) + context16
        context8 = self.up16(resize(x, spatial.shape[-2:]))  # B width H/8 W/8
        return self.fusion(spatial, context8), (context8, context16)


NAME = "BiSeNet"
PAPER = Paper(
    "Yu et al.",
    "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1808.00897",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "BiSeNet-ResNet18": {"encoder": "resnet18"},
    "BiSeNet-ResNet18-inference": {"encoder": "resnet18", "auxiliary_heads": False},
    "BiSeNet-Xception39": {"encoder": "xception39", "auxiliary_channels": 128},
    "BiSeNet-Xception39-inference": {"encoder": "xception39", "auxiliary_heads": False},
}
PARAMETERS = {
    ("BiSeNet-ResNet18", 3, 19): 13_494_777,
    ("BiSeNet-ResNet18-inference", 3, 19): 12_894_163,
    ("BiSeNet-Xception39", 3, 19): 1_842_289,
    ("BiSeNet-Xception39-inference", 3, 19): 1_541_963,
}
"""As in the authors' TorchSeg."""

build = BiSeNet
