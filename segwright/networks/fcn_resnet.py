"""FCN on a dilated ResNet: two convolutions on the last stage give the classes; torchvision's `fcn_resnet50` and `101`.

Paper: Long, Shelhamer and Darrell, Fully Convolutional Networks for Semantic Segmentation, CVPR 2015,
https://arxiv.org/abs/1411.4038, figure 1; the paper's idea on a newer encoder, **not** its FCN-8s.

**Differs from the paper** (as torchvision does, whose weights `convert` reads):
- the encoder is a ResNet, kept at 1/8 by dilation, instead of VGG16 at 1/32;
- scores of earlier stages are not added, so nothing is learned that sharpens borders;
- the head is one 3 x 3 convolution to a quarter of the width, instead of the two hidden layers of a classifier;
- the logits are enlarged bilinearly in one step, with `align_corners=False`, instead of by transposed convolutions;
- convolutions are padded just enough to keep the size, so nothing is cropped;
- an auxiliary head of the same form on the stage before helps the training.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.names import rename
from segwright.layers.resize import check_sides, resize_logits
from segwright.types import Paper


def _head(in_channels: int, num_classes: int) -> nn.Sequential:
    classifier = nn.Conv2d(in_channels // 4, num_classes, 1)
    head = nn.Sequential(ConvNormReLU(in_channels, in_channels // 4), nn.Dropout(0.1), classifier)
    initialize_convolutions(head)
    initialize_classifier(classifier)
    return head


class FCNResNet(nn.Module):
    """A dilated encoder and a head; the defaults are torchvision's `fcn_resnet50`.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network with strides of 16 and 32 that timm can dilate.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        output_stride: Stride of the encoder's last map.
        auxiliary_head: Whether to have the head on the stage before the last, for training.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8
    auxiliary_weight: ClassVar[float] = 0.5  # torchvision's training script

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet50",
        weights: Weights = "auto",
        output_stride: Literal[8, 16] = 8,
        auxiliary_head: bool = True,
    ) -> None:
        super().__init__()
        self.stride = output_stride  # type: ignore[misc] # the class has the default's
        self.encoder = make_encoder(
            encoder, in_channels, [16, 32], output_stride=output_stride, by_stage=True, weights=weights
        )
        before, last = self.encoder.channels
        self.head = _head(last, num_classes)
        self.auxiliary_head = _head(before, num_classes) if auxiliary_head else None

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "FCNResNet")
        _, last = self.encoder(image)  # B C5 H/8 W/8
        return resize_logits(self.head(last), image.shape[-2:])  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """Logits of the head at the image's size, and of the auxiliary head at an eighth of it."""
        check_sides(image, self.stride, "FCNResNet")
        before, last = self.encoder(image)  # B C4 H/8 W/8 and B C5 H/8 W/8
        logits = [resize_logits(self.head(last), image.shape[-2:])]  # B K H W
        if self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(before))  # B K H/8 W/8
        return logits


NAME = "FCN on a dilated ResNet"
PAPER = Paper(
    "Long, Shelhamer and Darrell",
    "Fully Convolutional Networks for Semantic Segmentation",
    "CVPR",
    2015,
    "https://arxiv.org/abs/1411.4038",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "FCN-ResNet50": {"encoder": "resnet50"},
    "FCN-ResNet50 without auxiliary head": {"encoder": "resnet50", "auxiliary_head": False},
    "FCN-ResNet101": {"encoder": "resnet101"},
    "FCN-ResNet101 without auxiliary head": {"encoder": "resnet101", "auxiliary_head": False},
}
PARAMETERS = {
    ("FCN-ResNet50", 3, 21): 35_322_218,
    ("FCN-ResNet50 without auxiliary head", 3, 21): 32_957_013,
    ("FCN-ResNet101", 3, 21): 54_314_346,
    ("FCN-ResNet101 without auxiliary head", 3, 21): 51_949_141,
}
"""As in torchvision."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of torchvision's `fcn_resnet50` or `fcn_resnet101` under the names used here."""
    rules = (
        (r"^backbone\.", "encoder.network."),
        (r"^aux_classifier\.", "auxiliary_head."),
        (r"^classifier\.", "head."),
        (r"head\.0\.", "head.0.convolution."),
        (r"head\.1\.", "head.0.norm."),
        (r"head\.4\.", "head.2."),
    )
    return rename(state_dict, rules)


build = FCNResNet
