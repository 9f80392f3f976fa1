"""DeepLab v2: a dilated encoder whose last map is scored at four rates, on the image at three scales.

Paper: Chen, Papandreou, Kokkinos, Murphy and Yuille, DeepLab: Semantic Image Segmentation with Deep Convolutional
Nets, Atrous Convolution, and Fully Connected CRFs, PAMI 2018, https://arxiv.org/abs/1606.00915; atrous spatial pyramid
pooling is figures 4 and 7.

**Differs from the paper**:
- the fused scores are enlarged to the image before training sees them; the paper shrinks the mask to them at 1/8, as
  is done here with the scores of each scale;
- sides are multiples of 8 instead of 8n + 1: the pools round up, so a crop of 320 has the 41 x 41 scores of the
  paper's 321, and the enlarged logits are cropped to it;
- timm's ImageNet weights of a ResNet fit, but come from a network that steps in the 3 x 3 convolution of a unit, where
  this one steps in the 1 x 1 before it, as in the paper; training has to make up for that in one unit of layer 2;
- all branches on VGG16 start from the same taps of the ImageNet classifier; we do not know how the authors did it;
- the normalization of the ResNet is trained like the rest, where the authors freeze it;
- the fully connected CRF is not a part of the network.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.dilation import dilate_whole_stages
from segwright.encoders.timm import Weights
from segwright.encoders.vgg import VGG16
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize
from segwright.types import Paper


class DilatedVGG16(nn.Module):
    """VGG16 at 1/8: windows of 3 in the pools, a stride in the first three of them only."""

    def __init__(self, in_channels: int, weights: Weights) -> None:
        super().__init__()
        self.vgg = VGG16(in_channels, dilation=2, weights=weights)
        self.pools = nn.ModuleList(nn.MaxPool2d(3, stride, padding=1, ceil_mode=True) for stride in (2, 2, 2, 1, 1))
        self.channels = self.vgg.channels[-1:]
        self.weights_used = self.vgg.weights_used

    def forward(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B D h w"]]:
        """The last map, in a list as the other encoders have it."""
        x = image
        for stage, pool in zip(self.vgg.stages, self.pools, strict=True):
            x = pool(stage(x))  # B _ H/2+1 W/2+1, H/4+1 W/4+1, then H/8+1 W/8+1
        return [x]

    def start(self, branches: Iterable[nn.Module]) -> None:
        """Start fc6 and fc7 of each branch from the hidden layers of the classifier, if they were loaded."""
        hidden_layers = self.vgg.fully_connected
        for branch in branches:
            self.vgg.fully_connected = hidden_layers
            self.vgg.hand_over(branch.fc6, branch.fc7)  # type: ignore[arg-type] # both are convolutions
        self.vgg.hand_over()  # forgets them


def _dilated_resnet(name: str, in_channels: int, weights: Weights) -> nn.Module:
    """A ResNet at 1/8 that steps where the authors' steps, and whose cells lie on every eighth pixel."""
    encoder: nn.Module = make_encoder(name, in_channels, [32], output_stride=8, by_stage=True, weights=weights)
    network: Any = getattr(encoder, "network", None)
    if not hasattr(network, "layer4"):
        raise ValueError(f"encoder '{name}' is neither 'vgg16' nor a ResNet; take one of these")
    dilate_whole_stages(encoder, 8)
    network.maxpool.ceil_mode = True
    first = network.layer2[0]  # no other unit has a stride
    first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return encoder


def _branch(in_channels: int, hidden_channels: int, num_classes: int, rate: int) -> nn.Module:
    """Scores at one rate: a classifier (figure 4), or two hidden layers of this width before it (figure 7)."""
    if not hidden_channels:
        classifier = nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate)
        initialize_classifier(classifier)
        return classifier
    fc8 = nn.Conv2d(hidden_channels, num_classes, 1)
    branch = nn.Sequential(
        OrderedDict(
            fc6=nn.Conv2d(in_channels, hidden_channels, 3, padding=rate, dilation=rate),
            relu6=nn.ReLU(),
            drop6=nn.Dropout(0.5),
            fc7=nn.Conv2d(hidden_channels, hidden_channels, 1),
            relu7=nn.ReLU(),
            drop7=nn.Dropout(0.5),
            fc8=fc8,
        )
    )
    initialize_convolutions(branch)
    initialize_classifier(fc8)
    return branch


def _resize_corners(scores: Tensor, size: Sequence[int]) -> Tensor:
    # A cell lies on a pixel, unlike in later networks, so corners stay corners.
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=True)


class DeepLabV2(nn.Module):
    """The network of figure 1 up to the CRF; the defaults are the authors' best, on ResNet-101.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: "vgg16", or the name of a ResNet of timm.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        rates: Dilations of the branches in cells; one branch a rate.
        hidden_channels: Width of fc6 and fc7 in a branch, 1024 on VGG16; 0 for the classifier alone, as on ResNet.
        scales: Sides of the images that are scored, as shares of the given image's; the scores are resized to those
            of the first scale, and their greatest counts. (1.0,) scores the image itself only.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8
    auxiliary_weight: ClassVar[float] = 1.0  # each scale counts as much as their maximum

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet101",
        weights: Weights = "auto",
        rates: Sequence[int] = (6, 12, 18, 24),
        hidden_channels: int = 0,
        scales: Sequence[float] = (1.0, 0.75, 0.5),
    ) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(
                f"scales are {tuple(scales)}, but DeepLabV2 needs one or more above 0; give (1.0,) for one"
            )
        self.scales = tuple(scales)
        make: Callable[..., Any] = DilatedVGG16 if encoder == "vgg16" else partial(_dilated_resnet, encoder)
        self.encoder = make(in_channels, weights)
        channels = self.encoder.channels[-1]
        self.aspp = nn.ModuleList(_branch(channels, hidden_channels, num_classes, rate) for rate in rates)
        if encoder == "vgg16":
            self.encoder.start(self.aspp if hidden_channels else [])

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size, the greatest over all scales."""
        check_sides(image, self.stride, "DeepLabV2")
        return self._fuse(self.score_maps(image), image.shape[-2:])

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits at the image's size and, if there are several scales, the scores of each at an eighth of its size."""
        check_sides(image, self.stride, "DeepLabV2")
        scores = self.score_maps(image)
        fused = self._fuse(scores, image.shape[-2:])
        return [fused, *scores] if len(scores) > 1 else [fused]

    def score_maps(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of every eighth pixel of the image at each scale, from the first pixel on; images of any size."""
        height, width = image.shape[-2:]
        maps = []
        for scale in self.scales:
            scaled = image if scale == 1 else resize(image, (int(scale * height), int(scale * width)))
            x = self.encoder(scaled)[0]  # B C5 scale·H/8+1 scale·W/8+1
            first, *others = (branch(x) for branch in self.aspp)
            maps.append(sum(others, start=first))  # B K scale·H/8+1 scale·W/8+1
        return maps

    def _fuse(self, maps: list[Tensor], size: Sequence[int]) -> Tensor:
        # The losses need single precision class by class, and the enlargement is quick in it.
        maps = [scores.to(torch.float32, memory_format=torch.contiguous_format) for scores in maps]
        cells = maps[0].shape[-2:]
        fused = torch.stack([_resize_corners(scores, cells) for scores in maps]).amax(dim=0)  # B K H/8+1 W/8+1
        height, width = size
        return _resize_corners(fused, (height + 1, width + 1))[..., :height, :width]  # B K H W


NAME = "DeepLab v2"
PAPER = Paper(
    "Chen, Papandreou, Kokkinos, Murphy and Yuille",
    "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully Connected CRFs",
    "PAMI",
    2018,
    "https://arxiv.org/abs/1606.00915",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "DeepLabV2-ResNet101": {"encoder": "resnet101"},
    "DeepLabV2-VGG16-ASPP-L": {"encoder": "vgg16", "hidden_channels": 1024},
    "DeepLabV2-VGG16-ASPP-S": {"encoder": "vgg16", "hidden_channels": 1024, "rates": (2, 4, 8, 12)},
}
PARAMETERS = {
    ("DeepLabV2-ResNet101", 3, 21): 44_048_532,
    ("DeepLabV2-VGG16-ASPP-L", 3, 21): 37_877_652,
}
"""The pyramid on ResNet-101 has 1,548,372 of them."""

build = DeepLabV2
