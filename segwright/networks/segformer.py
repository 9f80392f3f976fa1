"""SegFormer: an encoder of transformer blocks, and a decoder of linear layers alone.

Paper: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,
https://arxiv.org/abs/2105.15203; the network is figure 2, the decoder equation 4.

**Differs from the paper**:
- the encoder is a Mix Transformer, which starts at random because the authors' weights have a license of their own, or
  any other with the strides 4, 8, 16 and 32;
- the linear layer that fuses the joined maps is built as the sum of its four parts, each before its map is enlarged:
  the weights and the logits are the same, with a third of that layer's multiplications;
- batch normalization and ReLU follow the fusion, and a tenth of the channels are dropped in training, as in the
  authors' code;
- sides have to be multiples of 32.
"""

import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders import mit
from segwright.encoders.choice import make_encoder
from segwright.encoders.timm import Weights
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize
from segwright.types import Paper

STRIDES = (4, 8, 16, 32)  # of the encoder's maps F1 to F4


class MLPDecoder(nn.Module):
    """Linear layers that bring the maps to one width and size and fuse them; each is a 1 x 1 convolution.

    Args:
        encoder_channels: Channels of the encoder's maps, fine to coarse.
        channels: Width of the decoder.
    """

    def __init__(self, encoder_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in encoder_channels)
        # Side by side, these are the weights of one layer on the joined maps.
        self.fuse = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in encoder_channels)
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()

    def forward(self, maps: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B D H W"]:
        """One map of the size of the first."""
        fused, *coarse = (fuse(linear(x)) for linear, fuse, x in zip(self.linear, self.fuse, maps, strict=True))
        for part in coarse:
            fused = fused + resize(part, fused.shape[-2:])  # B D H/4 W/4
        result: Tensor = self.activation(self.norm(fused))
        return result


class SegFormer(nn.Module):
    """The network of figure 2; the defaults are SegFormer-B0.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of an encoder with the strides 4, 8, 16 and 32, such as "mit_b0" to "mit_b5" or a ResNet.
        weights: Weights of the encoder, as `TimmEncoder` has them; a Mix Transformer has no "imagenet".
        channels: Width of the decoder; the paper has 256 for B0 and B1, 768 for the larger ones.
        dropout: Share of the fused channels that are dropped in training.
        align_corners: Whether the corners of the logits stay corners when they are enlarged.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 32

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "mit_b0",
        weights: Weights = "auto",
        channels: int = 256,
        dropout: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.encoder = make_encoder(encoder, in_channels, STRIDES, weights=weights)
        self.decoder = MLPDecoder(self.encoder.channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, num_classes, 1)
        initialize_convolutions(self.decoder)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "SegFormer")
        maps = self.encoder(image)  # B C1 H/4 W/4, B C2 H/8 W/8, B C3 H/16 W/16 and B C4 H/32 W/32
        logits = self.head(self.dropout(self.decoder(maps)))  # B K H/4 W/4
        # The losses need single precision class by class, and the enlargement is quick in it.
        logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
        return F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=self.align_corners)  # B K H W


NAME = "SegFormer"
PAPER = Paper(
    "Xie et al.",
    "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    "NeurIPS",
    2021,
    "https://arxiv.org/abs/2105.15203",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "SegFormer-B0": {"encoder": "mit_b0", "channels": 256},
    "SegFormer-B1": {"encoder": "mit_b1", "channels": 256},
    "SegFormer-B2": {"encoder": "mit_b2", "channels": 768},
    "SegFormer-B3": {"encoder": "mit_b3", "channels": 768},
    "SegFormer-B4": {"encoder": "mit_b4", "channels": 768},
    "SegFormer-B5": {"encoder": "mit_b5", "channels": 768},
}
PARAMETERS = {
    ("SegFormer-B0", 3, 150): 3_752_694,
    ("SegFormer-B1", 3, 150): 13_715_798,
    ("SegFormer-B2", 3, 150): 27_461_974,
    ("SegFormer-B3", 3, 150): 47_337_814,
    ("SegFormer-B4", 3, 150): 64_108_374,
    ("SegFormer-B5", 3, 150): 84_708_694,
}
"""As in segmentation_models_pytorch; 3.8, 13.7, 27.5, 47.3, 64.1 and 84.7 million in table 1 of the paper."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `Segformer` with a Mix Transformer, under the names used here.

    It enlarges its logits as `align_corners=True` does.
    """
    encoder = {
        name.removeprefix("encoder."): value for name, value in state_dict.items() if name.startswith("encoder.")
    }
    converted = {f"encoder.{name}": value for name, value in mit.convert(encoder).items()}
    for name, value in state_dict.items():
        linear = re.match(r"decoder\.mlp_stage\.(\d)\.linear\.", name)  # theirs count from coarse to fine
        if linear:
            new_name = f"decoder.linear.{len(STRIDES) - 1 - int(linear[1])}.{name[linear.end() :]}"
            converted[new_name] = value[:, :, None, None] if value.ndim == 2 else value
        elif name == "decoder.fuse_stage.0.weight":
            for place, part in enumerate(reversed(value.chunk(len(STRIDES), dim=1))):
                converted[f"decoder.fuse.{place}.weight"] = part
        elif not name.startswith("encoder."):
            new_name = name.replace("decoder.fuse_stage.1.", "decoder.norm.")
            converted[new_name.replace("segmentation_head.0.", "head.")] = value
    return converted


build = SegFormer
