"""PAN: a pyramid of convolutions weights the pixels of the last map, and coarse maps weight the channels of finer ones.

Paper: Li, Xiong, An and Wang, Pyramid Attention Network for Semantic Segmentation, BMVC 2018,
https://arxiv.org/abs/1805.10180; the network is figure 2, feature pyramid attention (FPA) figure 3, global attention
upsample (GAU) figure 4.

**Differs from the paper** (which names no widths, and has no code of the authors; open points are decided as in
segmentation_models_pytorch):
- the decoder is 256 wide, the pyramid 64, and a 1 x 1 convolution joins the two; an unofficial build with 512 and 2048
  has 115.6 million parameters in FPA alone;
- the pyramid goes down by strided convolutions and up bilinearly;
- batch normalization and ReLU follow each convolution, but no ReLU the one of a GAU's finer map;
- maps are enlarged with their corners on each other, and the last convolution is 3 x 3.

The form of segmentation_models_pytorch, whose weights `convert` reads, is reached by arguments: 32 channels, a pyramid
of one channel that goes down by pooling, gates by a sigmoid, and convolutions with a bias.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.choice import make_encoder
from segwright.encoders.dilation import dilate_whole_stages
from segwright.encoders.timm import Weights
from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.max_pooling import max_pool
from segwright.layers.names import rename
from segwright.layers.resize import check_sides
from segwright.types import Paper

KERNELS = (7, 5, 3)  # of the pyramid, at 1/2, 1/4 and 1/8 of the map


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _block(
    in_channels: int, out_channels: int, kernel_size: int, activation: nn.Module, *, stride: int = 1, bias: bool = False
) -> nn.Sequential:
    padding = kernel_size // 2
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=padding, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), activation)


class FPA(nn.Module):
    """Feature pyramid attention: the map, times what the pyramid says of each pixel, plus the average (figure 3).

    Args:
        in_channels: Channels of the encoder's last map.
        channels: Channels of the result.
        pyramid_channels: Width of the pyramid; one channel weights all channels of the map alike.
        downsampling: How the pyramid goes down: by the step of its convolutions, or by pooling before them.
        bias: Whether convolutions have a bias.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        pyramid_channels: int,
        *,
        downsampling: Literal["stride", "max_pool"] = "stride",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.pools = downsampling == "max_pool"
        stride = 1 if self.pools else 2
        self.main = _block(in_channels, channels, 1, nn.ReLU(), bias=bias)
        self.global_pooling = _block(in_channels, channels, 1, nn.ReLU(), bias=bias)
        self.down, self.level = nn.ModuleList(), nn.ModuleList()
        above = in_channels
        for kernel_size in KERNELS:
            self.down.append(_block(above, pyramid_channels, kernel_size, nn.ReLU(), stride=stride, bias=bias))
            self.level.append(_block(pyramid_channels, pyramid_channels, kernel_size, nn.ReLU(), bias=bias))
            above = pyramid_channels
        self.widen: nn.Module = nn.Identity()
        if pyramid_channels > 1:
            self.widen = _block(pyramid_channels, channels, 1, nn.ReLU(), bias=bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Weight the pixels of the map and add its average."""
        maps = [x]
        for down in self.down:
            # A side of one cell is kept, by pooling as by a step.
            maps.append(down(max_pool(maps[-1], 2) if self.pools else maps[-1]))  # B P H/2 W/2, H/4 W/4, H/8 W/8
        _, half, quarter, eighth = maps
        attention = self.level[2](eighth)  # B P H/8 W/8
        attention = self.level[1](quarter) + _enlarge(attention, quarter.shape[-2:])  # B P H/4 W/4
        attention = self.level[0](half) + _enlarge(attention, half.shape[-2:])  # B P H/2 W/2
        attention = _enlarge(self.widen(attention), x.shape[-2:])  # B D H W
        average = self.global_pooling(x.mean(dim=(2, 3), keepdim=True))  # B D 1 1
        result: Tensor = self.main(x) * attention + average  # B D H W
        return result


class GAU(nn.Module):
    """Global attention upsample: the average of the coarse map weights the channels of the fine one (figure 4).

    Args:
        fine_channels: Channels of the encoder's map.
        channels: Channels of the coarse map and of the result.
        gate: "relu" as in the paper; "sigmoid", with a ReLU on the fine map too, as in segmentation_models_pytorch.
        bias: Whether convolutions have a bias.
    """

    def __init__(
        self, fine_channels: int, channels: int, *, gate: Literal["relu", "sigmoid"] = "relu", bias: bool = False
    ) -> None:
        super().__init__()
        gating, rectifying = (nn.ReLU(), nn.Identity()) if gate == "relu" else (nn.Sigmoid(), nn.ReLU())
        self.gate = _block(channels, channels, 1, gating, bias=bias)
        self.fine = _block(fine_channels, channels, 3, rectifying, bias=bias)

    def forward(self, fine: Float[Tensor, "B C H W"], coarse: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D H W"]:
        """Weight the fine map and add the enlarged coarse one."""
        weight = self.gate(coarse.mean(dim=(2, 3), keepdim=True))  # B D 1 1
        result: Tensor = self.fine(fine) * weight + _enlarge(coarse, fine.shape[-2:])  # B D H W
        return result


class PAN(nn.Module):
    """The network of figure 2.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        encoder: Name of a timm network that timm can dilate; resnet50s and resnet101s have the stem of three 3 x 3
            convolutions that the paper has.
        weights: Weights of the encoder, as `TimmEncoder` has them.
        channels: Width of the decoder.
        pyramid_channels: Width of the pyramid in FPA.
        downsampling: How the pyramid goes down, "stride" or "max_pool".
        gate: Activation that makes the weights in GAU, "relu" or "sigmoid".
        bias: Whether convolutions have a bias, which the normalization cancels; only to read foreign weights.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet50s",
        weights: Weights = "auto",
        channels: int = 256,
        pyramid_channels: int = 64,
        downsampling: Literal["stride", "max_pool"] = "stride",
        gate: Literal["relu", "sigmoid"] = "relu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        stages = (32, 16, 8, 4)
        self.encoder = make_encoder(encoder, in_channels, stages, output_stride=16, by_stage=True, weights=weights)
        dilate_whole_stages(self.encoder, 16)
        last, *finer = self.encoder.channels
        self.fpa = FPA(last, channels, pyramid_channels, downsampling=downsampling, bias=bias)
        self.gaus = nn.ModuleList(GAU(fine, channels, gate=gate, bias=bias) for fine in finer)
        self.head = nn.Conv2d(channels, num_classes, 3, padding=1)
        initialize_convolutions(self.fpa)
        initialize_convolutions(self.gaus)
        initialize_classifier(self.head)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        check_sides(image, self.stride, "PAN")
        last, *finer = self.encoder(image)  # B 2048 H/16 W/16
        x = self.fpa(last)  # B D H/16 W/16
        for gau, fine in zip(self.gaus, finer, strict=True):
            x = gau(fine, x)  # B D H/16 W/16, then H/8 W/8, then H/4 W/4
        logits = self.head(x).to(torch.float32, memory_format=torch.contiguous_format)  # B K H/4 W/4
        return _enlarge(logits, image.shape[-2:])  # B K H W


NAME = "PAN"
PAPER = Paper(
    "Li, Xiong, An and Wang",
    "Pyramid Attention Network for Semantic Segmentation",
    "BMVC",
    2018,
    "https://arxiv.org/abs/1805.10180",
)
_SMP: dict[str, Any] = {
    "channels": 32,
    "pyramid_channels": 1,
    "downsampling": "max_pool",
    "gate": "sigmoid",
    "bias": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "PAN-ResNet50": {"encoder": "resnet50s"},
    "PAN-ResNet101": {"encoder": "resnet101s"},
    "PAN-ResNet50-smp": {"encoder": "resnet50", **_SMP},
    "PAN-ResNet101-smp": {"encoder": "resnet101", **_SMP},
}
PARAMETERS = {
    ("PAN-ResNet50-smp", 3, 21): 24_265_596,
    ("PAN-ResNet101-smp", 3, 21): 43_257_724,
}
"""As in segmentation_models_pytorch; the paper has none."""


def convert(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a segmentation_models_pytorch `PAN` with a ResNet encoder, under the names used here."""
    rules = (
        (r"^encoder\.", "encoder.network."),
        (r"^decoder\.fpa\.branch1\.1\.", "fpa.global_pooling."),
        (r"^decoder\.fpa\.mid\.0\.", "fpa.main."),
        (r"^decoder\.fpa\.down1\.1\.", "fpa.down.0."),
        (r"^decoder\.fpa\.down2\.1\.", "fpa.down.1."),
        (r"^decoder\.fpa\.down3\.1\.", "fpa.down.2."),
        (r"^decoder\.fpa\.down3\.2\.", "fpa.level.2."),
        (r"^decoder\.fpa\.conv2\.", "fpa.level.1."),
        (r"^decoder\.fpa\.conv1\.", "fpa.level.0."),
        (r"^decoder\.gau3\.", "gaus.0."),
        (r"^decoder\.gau2\.", "gaus.1."),
        (r"^decoder\.gau1\.", "gaus.2."),
        (r"^(gaus\.\d)\.conv1\.1\.", r"\1.gate."),
        (r"^(gaus\.\d)\.conv2\.", r"\1.fine."),
        (r"^((?:fpa|gaus)\..*)\.conv\.", r"\1.0."),
        (r"^((?:fpa|gaus)\..*)\.bn\.", r"\1.1."),
        (r"^segmentation_head\.0\.", "head."),
    )
    return rename(state_dict, rules)


build = PAN
