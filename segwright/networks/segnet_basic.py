"""SegNet-Basic: four wide encoders, and four decoders that put every value back where the pooling had found it.

Paper: Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, PAMI 2017, https://arxiv.org/abs/1511.00561, section 3.1. The layers are those of the authors' Caffe
files, where the decoders have no ReLU; so is the dropout of Bayesian SegNet (https://arxiv.org/abs/1511.02680).

**Differs from the paper**:
- sides have to be multiples of 8, as those of the paper's 360 x 480 are: the last pooling rounds up, as in Caffe, and
  its unpooling goes back to exactly the size that the pooling had seen;
- the local response normalization of the Caffe files is there, but changes little in images that are normalized as for
  every network here: its strength is made for pixels from 0 to 255;
- batch normalization evaluates with running averages, not with statistics collected anew after training;
- the classifier starts near zero, the other convolutions from He's initialization.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides
from segwright.layers.unpooling import pool, unpool
from segwright.types import Paper


def _convolution_norm(in_channels: int, channels: int, *, bias: bool) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, channels, 7, padding=3, bias=bias), nn.BatchNorm2d(channels)]


class SegNetBasic(nn.Module):
    """The small network of section 3.1.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        bias: Whether the 7 x 7 convolutions have a bias, which batch normalization cancels.
        dropout: Share of the values dropped after encoders and decoders 3 and 4; 0.5 makes it Bayesian SegNet-Basic.
        width: Channels of every layer.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(
        self, in_channels: int, num_classes: int, *, bias: bool = True, dropout: float = 0.0, width: int = 64
    ) -> None:
        super().__init__()
        self.normalization = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        self.encoders = nn.ModuleList(
            nn.Sequential(*_convolution_norm(before, width, bias=bias), nn.ReLU())
            for before in (in_channels, width, width, width)
        )
        self.encoder_dropouts = nn.ModuleList(nn.Dropout(share) for share in (0.0, 0.0, dropout, dropout))
        self.decoders = nn.ModuleList(
            nn.Sequential(*_convolution_norm(width, width, bias=bias), nn.Dropout(share))
            for share in (dropout, dropout, 0.0, 0.0)
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialize_convolutions(self)
        initialize_classifier(self.classifier)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "SegNetBasic")
        x, poolings = self.normalization(image), []
        for level, (encoder, dropout) in enumerate(zip(self.encoders, self.encoder_dropouts, strict=True)):
            x = encoder(x)  # B D h w
            size = x.shape[-2:]
            x, indices = pool(x, is_even=2**level < self.stride)  # B D h/2 w/2, rounded up
            x = dropout(x)
            poolings.append((indices, size))
        for decoder, (indices, size) in zip(self.decoders, reversed(poolings), strict=True):
            x = decoder(unpool(x, indices, size))  # B D 2h 2w, as the pooling had seen it
        logits: Tensor = self.classifier(x)  # B K H W
        return logits


NAME = "SegNet-Basic"
PAPER = Paper(
    "Badrinarayanan, Kendall and Cipolla",
    "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    "PAMI",
    2017,
    "https://arxiv.org/abs/1511.00561",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "SegNet-Basic": {"bias": True},
    "SegNet-Basic-without-biases": {"bias": False},
    "Bayesian-SegNet-Basic": {"dropout": 0.5},
}
PARAMETERS = {
    ("SegNet-Basic", 3, 11): 1_416_587,
    ("SegNet-Basic-without-biases", 3, 11): 1_416_075,
    ("Bayesian-SegNet-Basic", 3, 11): 1_416_587,
}
"""Counted from the authors' Caffe files; 1.425 million in the paper."""

build = SegNetBasic
