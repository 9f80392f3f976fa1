"""DeepLab v1: VGG16 with holes in its filters instead of its last two strides, and a classifier with a large view.

Paper: Chen, Papandreou, Kokkinos, Murphy and Yuille, Semantic Image Segmentation with Deep Convolutional Nets and
Fully Connected CRFs, ICLR 2015, https://arxiv.org/abs/1412.7062; section 3 is the network, table 2 its fields of view.

**Differs from the paper**:
- the logits that training sees are enlarged to the image, as in DeepLab v3; the paper shrinks the mask to the scores
  at 1/8 (`score_map`);
- sides are multiples of 8 instead of 8n + 1: the pools round up, so a crop of 320 has the 41 x 41 scores of the
  paper's 321, and the enlarged logits are cropped to it;
- the fully connected CRF is not a part of the network;
- the single-scale networks only; the filters of 7 x 7 and 4 x 4 have the pooling of DeepLab-LargeFOV, whose
  definition is the only one that was read.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import Weights
from segwright.encoders.vgg import VGG16
from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper


class DeepLabV1(nn.Module):
    """The network of section 3; the defaults are DeepLab-LargeFOV.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        kernel_size: Side of the filters of fc6, whose weights are taken out of the classifier's 7 x 7.
        rate: Distance between the taps of these filters in cells of 8 pixels.
        hidden_channels: Width of fc6 and fc7.
        dropout: Share of the values of fc6 and of fc7 that are dropped in training.
        weights: Weights of the encoder, fc6 and fc7, as `TimmEncoder` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        kernel_size: int = 3,
        rate: int = 12,
        hidden_channels: int = 1024,
        dropout: float = 0.5,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        span = rate * (kernel_size - 1)
        if span % 2:
            raise ValueError(
                f"kernel_size {kernel_size} at rate {rate} spans {span + 1} cells, but DeepLabV1 needs an odd "
                "number to keep the size; make the rate even"
            )
        self.encoder = VGG16(in_channels, dilation=2, weights=weights)
        # Windows of three, with a center: a cell lies on a pixel, cell i of the last map on pixel 8i.
        self.pools = nn.ModuleList(nn.MaxPool2d(3, stride, padding=1, ceil_mode=True) for stride in (2, 2, 2, 1, 1))
        self.pool5a = nn.AvgPool2d(3, 1, padding=1)
        fc6 = nn.Conv2d(self.encoder.channels[-1], hidden_channels, kernel_size, padding=span // 2, dilation=rate)
        fc7 = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.fc6 = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(dropout))
        self.fc7 = nn.Sequential(fc7, nn.ReLU(), nn.Dropout(dropout))
        self.fc8 = nn.Conv2d(hidden_channels, num_classes, 1)
        for part in (fc6, fc7, self.fc8):  # a random start of the classifier is that of torchvision's VGG16
            initialize_classifier(part)
        self.encoder.hand_over(fc6, fc7)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "DeepLabV1")
        scores = self.score_map(image).to(torch.float32, memory_format=torch.contiguous_format)
        height, width = (8 * (cells - 1) + 1 for cells in scores.shape[-2:])
        # Corners are aligned because a cell lies on a pixel, unlike in the later networks.
        logits = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=True)  # B K H+1 W+1
        return logits[..., : image.shape[-2], : image.shape[-1]]  # B K H W

    def score_map(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        """Logits of every eighth pixel, from the first on; images of any size."""
        x = image
        for stage, pool in zip(self.encoder.stages, self.pools, strict=True):
            x = pool(stage(x))  # B C H/2 W/2, H/4 W/4, then H/8 W/8
        scores: Tensor = self.fc8(self.fc7(self.fc6(self.pool5a(x))))  # B K H/8+1 W/8+1
        return scores


NAME = "DeepLab v1"
PAPER = Paper(
    "Chen, Papandreou, Kokkinos, Murphy and Yuille",
    "Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs",
    "ICLR",
    2015,
    "https://arxiv.org/abs/1412.7062",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "DeepLabV1-LargeFOV": {"kernel_size": 3, "rate": 12, "hidden_channels": 1024},
    "DeepLabV1-7x7": {"kernel_size": 7, "rate": 4, "hidden_channels": 4096},
    "DeepLabV1-4x4": {"kernel_size": 4, "rate": 8, "hidden_channels": 4096},
}
PARAMETERS = {("DeepLabV1-LargeFOV", 3, 21): 20_505_429}
"""20.5 million in table 2 of the paper, which has 134.3 and 65.1 for the other two."""

build = DeepLabV1
