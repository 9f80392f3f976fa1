"""DeepLabv3+: atrous spatial pyramid pooling on a dilated encoder, and a small decoder that sharpens the borders.

Paper: Chen, Zhu, Papandreou, Schroff and Adam, Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018, https://arxiv.org/abs/1802.02611, figure 2.

**Differs from the paper**:
- the encoder is any classification network that can be dilated; aligned Xception is one of them. The strides of a
  ResNet are where timm's weights have them, in the first unit of a stage; the authors have them in the last;
- maps are enlarged with `align_corners=False`: sides are multiples of 16, where the authors take 513.

`follows="smp"` builds the network of segmentation_models_pytorch, whose weights `convert` reads. There, nothing
follows the depthwise convolutions, one of the two convolutions of the decoder comes before the join, all units of a
dilated stage are dilated, and maps are enlarged with `align_corners=True`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.dilation import dilate_whole_stages
from segwright.encoders.timm import Weights
from segwright.layers.convolution import ConvNormReLU, initialize_classifier, initialize_convolutions
from segwright.layers.names import rename
from segwright.layers.resize import check_sides
from segwright.layers.separable import SeparableConvolution
from segwright.types import Paper


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one pixel, three rates and the whole image, side by side.

    Args:
        in_channels: Channels of the encoder's last map.
        channels: Channels of each branch and of the result.
        rates: Dilations of the 3 x 3 branches in cells.
        dropout: Share of the values of the result that are dropped in training.
        convolution: Makes a 3 x 3 convolution from channels in, channels out and `dilation`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        dropout: float,
        convolution: Callable[..., nn.Module] = SeparableConvolution,
    ) -> None:
        super().__init__()
        self.pixel = ConvNormReLU(in_channels, channels, 1)
        self.atrous = nn.ModuleList(convolution(in_channels, channels, dilation=rate) for rate in rates)
        self.image_pooling = ConvNormReLU(in_channels, channels, 1)
        self.project = ConvNormReLU((2 + len(rates)) * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Branches, joined and projected."""
        pooled = self.image_pooling(x.mean(dim=(2, 3), keepdim=True))  # B D 1 1
        branches = [self.pixel(x), *(branch(x) for branch in self.atrous), pooled.expand(-1, -1, *x.shape[-2:])]
        result: Tensor = self.dropout(self.project(torch.cat(branches, dim=1)))  # B D H W
        return result

    def set_rates(self, rates: Sequence[int]) -> None:
        """Change the dilations of the 3 x 3 branches; the weights stay."""
        for branch, rate in zip(self.atrous, rates, strict=True):
            for module in branch.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                    module.dilation = module.padding = (rate, rate)


class DeepLabV3Plus(nn.Module):
    """The network of figure 2.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of an encoder with a stride of 4 that can be dilated, such as "aligned_xception65" or a ResNet.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        output_stride: Stride of the encoder's last map; `set_output_stride` changes it afterwards.
        rates: Dilations of the pyramid's 3 x 3 branches in cells, at an output stride of 16; at 8 they double.
        channels: Width of the pyramid and of the decoder.
        dropout: Share of the values of the pyramid's result that are dropped in training.
        separable: Whether the 3 x 3 convolutions of pyramid and decoder are separable; with a ResNet, the paper's are
            not.
        follows: "paper", or "smp" for the network of segmentation_models_pytorch.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet34",
        weights: Weights = "auto",
        output_stride: Literal[8, 16] = 16,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        dropout: float = 0.1,
        separable: bool = True,
        follows: Literal["paper", "smp"] = "paper",
    ) -> None:
        super().__init__()
        self.follows = follows
        self._encoder_name, self._in_channels, self._rates = encoder, in_channels, tuple(rates)
        self.encoder = self._dilated_encoder(output_stride, weights)
        low_channels, high_channels = self.encoder.channels
        convolution: Callable[..., nn.Module] = ConvNormReLU
        if separable:
            convolution = partial(SeparableConvolution, norm_between=follows == "paper")
        self.aspp = ASPP(high_channels, channels, self._rates_at(output_stride), dropout, convolution)
        self.low_level = ConvNormReLU(low_channels, 48, 1)
        self.before_join: nn.Module = nn.Identity()
        self.decoder = nn.Sequential(convolution(channels + 48, channels))
        if follows == "paper":
            self.decoder.append(convolution(channels, channels))
        else:
            self.before_join = convolution(channels, channels)
        self.head = nn.Conv2d(channels, num_classes, 1)
        for part in (self.aspp, self.low_level, self.before_join, self.decoder):
            initialize_convolutions(part)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "DeepLabV3Plus")
        low, high = self.encoder(image)  # B C1 H/4 W/4 and B C2 H/16 W/16 (H/8 W/8 at output stride 8)
        pyramid = self._enlarge(self.before_join(self.aspp(high)), low.shape[-2:])  # B D H/4 W/4
        joined = torch.cat([pyramid, self.low_level(low)], dim=1)  # B D+48 H/4 W/4
        logits = self.head(self.decoder(joined))  # B K H/4 W/4
        # The losses need single precision class by class, and the enlargement is quick in it.
        logits = logits.to(torch.float32, memory_format=torch.contiguous_format)
        return self._enlarge(logits, image.shape[-2:])  # B K H W

    def set_output_stride(self, output_stride: int) -> None:
        """Change strides and dilations of the encoder and the rates of the pyramid; the weights stay.

        The paper trains at 16 and evaluates at 8, which costs time and memory and gives finer maps.

        Raises:
            ValueError: If the output stride is neither 8 nor 16, or the encoder cannot have it with its weights.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}, but DeepLabV3Plus has 8 or 16; choose one of them")
        encoder = self._dilated_encoder(8 if output_stride == 8 else 16, "none")
        own = self.encoder.state_dict(keep_vars=True)
        shapes = {name: value.shape for name, value in own.items()}
        if {name: value.shape for name, value in encoder.state_dict().items()} != shapes:
            raise ValueError(
                f"encoder '{self._encoder_name}' has other weights at output stride {output_stride}, "
                "so it cannot be changed to it; build the network with it and train that"
            )
        for new, old in zip(encoder.parameters(), self.encoder.parameters(), strict=True):
            new.requires_grad_(old.requires_grad)
        encoder.load_state_dict(own, assign=True)  # the very same parameters, which an optimizer may hold
        encoder.weights_used = self.encoder.weights_used
        self.encoder = encoder.to(self.head.weight.device).train(self.encoder.training)
        self.aspp.set_rates(self._rates_at(output_stride))

    def _dilated_encoder(self, output_stride: Literal[8, 16], weights: Weights) -> Any:  # noqa: ANN401 - as make_encoder
        name, channels, strides = self._encoder_name, self._in_channels, [4, output_stride]
        encoder = make_encoder(name, channels, strides, output_stride=output_stride, weights=weights)
        if self.follows == "smp":
            dilate_whole_stages(encoder, output_stride)
        return encoder

    def _rates_at(self, output_stride: int) -> list[int]:
        return [rate * 16 // output_stride for rate in self._rates]

    def _enlarge(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=self.follows == "smp")


NAME = "DeepLabv3+"
PAPER = Paper(
    "Chen, Zhu, Papandreou, Schroff and Adam",
    "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    "ECCV",
    2018,
    "https://arxiv.org/abs/1802.02611",
)
_SMP = {"follows": "smp", "rates": (12, 24, 36), "dropout": 0.5}
VARIANTS: dict[str, dict[str, Any]] = {
    "DeepLabV3Plus-ResNet34": {"encoder": "resnet34"},
    "DeepLabV3Plus-ResNet50": {"encoder": "resnet50"},
    "DeepLabV3Plus-ResNet101": {"encoder": "resnet101"},
    "DeepLabV3Plus-ResNet101-dense": {"encoder": "resnet101", "separable": False},
    "DeepLabV3Plus-Xception65": {"encoder": "aligned_xception65"},
    "DeepLabV3Plus-ResNet34-smp": {"encoder": "resnet34", **_SMP},
    "DeepLabV3Plus-ResNet50-smp": {"encoder": "resnet50", **_SMP},
    "DeepLabV3Plus-ResNet101-smp": {"encoder": "resnet101", **_SMP},
}
PARAMETERS = {
    ("DeepLabV3Plus-ResNet101-dense", 3, 21): 59_344_309,
    ("DeepLabV3Plus-Xception65", 3, 21): 41_055_413,
    ("DeepLabV3Plus-ResNet34-smp", 3, 21): 22_442_597,
    ("DeepLabV3Plus-ResNet50-smp", 3, 21): 26_682_725,
    ("DeepLabV3Plus-ResNet101-smp", 3, 21): 45_674_853,
}
"""As in the authors' code, and as in segmentation_models_pytorch."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `DeepLabV3Plus` with a ResNet encoder, under the names used here."""
    separable = r"^(aspp\.atrous\.\d|before_join|decoder\.0)\."
    plain = r"^(aspp\.pixel|aspp\.image_pooling|aspp\.project|low_level)\."
    rules = (
        (r"^encoder\.", "encoder.network."),
        (r"^decoder\.block1\.", "low_level."),
        (r"^decoder\.block2\.", "decoder.0."),
        (r"^decoder\.aspp\.2\.", "before_join.1."),
        (r"^decoder\.aspp\.1\.", "before_join.0."),
        (r"^decoder\.aspp\.0\.project\.", "aspp.project."),
        (r"^decoder\.aspp\.0\.convs\.4\.2\.", "aspp.image_pooling.1."),
        (r"^decoder\.aspp\.0\.convs\.4\.1\.", "aspp.image_pooling.0."),
        (r"^decoder\.aspp\.0\.convs\.3\.", "aspp.atrous.2."),
        (r"^decoder\.aspp\.0\.convs\.2\.", "aspp.atrous.1."),
        (r"^decoder\.aspp\.0\.convs\.1\.", "aspp.atrous.0."),
        (r"^decoder\.aspp\.0\.convs\.0\.", "aspp.pixel."),
        (r"^segmentation_head\.0\.", "head."),
        (separable + r"0\.0\.", r"\1.depthwise."),
        (separable + r"0\.1\.", r"\1.pointwise."),
        (separable + r"1\.", r"\1.pointwise_norm."),
        (plain + r"0\.", r"\1.convolution."),
        (plain + r"1\.", r"\1.norm."),
    )
    return rename(state_dict, rules)


build = DeepLabV3Plus
