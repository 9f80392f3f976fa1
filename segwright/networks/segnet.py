"""SegNet: the convolutions of VGG16, and a decoder that puts every value back where the pooling had found it.

Paper: Badrinarayanan, Kendall and Cipolla, SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation, PAMI 2017, https://arxiv.org/abs/1511.00561, figure 2. The dropout is that of Bayesian SegNet (Kendall,
Badrinarayanan and Cipolla, BMVC 2017, https://arxiv.org/abs/1511.02680), placed as in the authors' Caffe files.

**Differs from the paper**:
- sides have to be multiples of 8, as those of the paper's 360 x 480 are: below that the pooling rounds up, as in Caffe,
  and the unpooling goes back to exactly the size that the pooling had seen;
- images are normalized as for every network here, without local contrast normalization;
- batch normalization evaluates with running averages, not with statistics collected anew after training;
- the last convolution starts near zero, the rest of the decoder from He's initialization;
- Bayesian SegNet is the network only: averaging the probabilities of several passes with dropout is left to the caller.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import Weights
from segwright.encoders.vgg import VGG16
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides
from segwright.layers.unpooling import pool, unpool
from segwright.types import Paper

DECODERS = ((8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1,))
"""Channels of the convolutions of decoders 5 to 1, in widths of encoder 1; the head is the second one of decoder 1."""


def _decoder(in_channels: int, widths: Sequence[int], *, bias: bool, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, channels in zip((in_channels, *widths), widths, strict=False):
        convolution = nn.Conv2d(before, channels, 3, padding=1, bias=bias)
        layers.extend([convolution, nn.BatchNorm2d(channels), nn.ReLU()])
    return nn.Sequential(*layers, nn.Dropout(dropout))


class SegNet(nn.Module):
    """The network of figure 2.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        bias: Whether the convolutions have a bias, which batch normalization cancels; VGG16's weights come with it.
        dropout: Share of the values dropped after encoders and decoders 3, 4 and 5; 0.5 makes it Bayesian SegNet.
        width: Channels of encoder 1, of which the others have 2, 4, 8 and 8 times as many.
        weights: Weights of the encoder, as `VGG16` has them.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 8

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        width: int = 64,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        self.encoder = VGG16(in_channels, norm=True, bias=bias, width=width, weights=weights)
        self.encoder.hand_over()  # SegNet has no fully connected layers
        self.encoder_dropouts = nn.ModuleList(nn.Dropout(share) for share in (0.0, 0.0, dropout, dropout, dropout))
        self.decoders = nn.ModuleList()
        before = self.encoder.channels[-1]
        for multiples, share in zip(DECODERS, (dropout, dropout, dropout, 0.0, 0.0), strict=True):
            widths = [width * multiple for multiple in multiples]
            self.decoders.append(_decoder(before, widths, bias=bias, dropout=share))
            before = widths[-1]
        self.head = nn.Conv2d(before, num_classes, 3, padding=1)
        initialize_convolutions(self.decoders)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "SegNet")
        x, poolings = image, []
        for level, (encoder, dropout) in enumerate(zip(self.encoder.stages, self.encoder_dropouts, strict=True)):
            x = encoder(x)  # B D h w
            size = x.shape[-2:]
            x, indices = pool(x, is_even=2**level < self.stride)  # B D h/2 w/2, rounded up
            x = dropout(x)
            poolings.append((indices, size))
        for decoder, (indices, size) in zip(self.decoders, reversed(poolings), strict=True):
            x = decoder(unpool(x, indices, size))  # B D 2h 2w, as the pooling had seen it
        logits: Tensor = self.head(x)  # B K H W
        return logits


NAME = "SegNet"
PAPER = Paper(
    "Badrinarayanan, Kendall and Cipolla",
    "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    "PAMI",
    2017,
    "https://arxiv.org/abs/1511.00561",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "SegNet": {"bias": True},
    "SegNet-without-biases": {"bias": False},
    "Bayesian-SegNet": {"dropout": 0.5},
}
PARAMETERS = {
    ("SegNet", 3, 11): 29_449_355,
    ("SegNet", 3, 21): 29_455_125,
    ("SegNet-without-biases", 3, 11): 29_441_419,
    ("Bayesian-SegNet", 3, 11): 29_449_355,
}
"""Counted from the authors' Caffe files."""

build = SegNet
