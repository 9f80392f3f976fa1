"""Aligned Xception, the encoder of DeepLabv3+ and DPC: separable convolutions throughout, and no pooling.

Paper: Chen, Zhu, Papandreou, Schroff and Adam, Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, ECCV 2018, https://arxiv.org/abs/1802.02611, figure 4; it deepens the Xception of Chollet, CVPR 2017,
https://arxiv.org/abs/1610.02357. The variants of 41 and 71 layers are those of the authors' code.

**Differs from the paper**: only in training; batch normalization forgets a tenth a step instead of 0.0003, and
convolutions start from He weights.

timm's `xception41`, `xception65` and `xception71` have the same weights and the same last map (`convert` reads
theirs), but other features in between: theirs come after the ReLU, ours before it, as in the authors' code. At output
stride 8 timm leaves out one shortcut convolution of 71 layers, so that its weights at 8 are not those at 16.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import timm
from jaxtyping import Float
from torch import Tensor, nn

from segwright.encoders.timm import Weights, local_weights
from segwright.layers.convolution import ConvNormReLU, initialize_convolutions
from segwright.layers.separable import SeparableConvolution

STRIDES = (2, 4, 8, 16, 32)

Layers = Literal[41, 65, 71]
Shortcut = Literal["convolution", "identity", "none"]
Module = tuple[tuple[int, int, int], Shortcut, int]

_WEIGHTS = {  # in timm, best first
    41: ("xception41.tf_in1k",),
    65: ("xception65.ra3_in1k", "xception65.tf_in1k"),
    71: ("xception71.tf_in1k",),
}


class XceptionModule(nn.Module):
    """Three separable convolutions, of which the third has the stride, and a shortcut around them.

    Args:
        in_channels: Channels that come in.
        widths: Channels of the three convolutions.
        shortcut: "convolution" for 1 x 1 with the stride; "identity"; "none" for the last module, where ReLU follows
            every depthwise and pointwise convolution instead of preceding every separable one.
        stride: Step of the third convolution in pixels.
        dilation: Of all three.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        shortcut: Shortcut,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        last = shortcut == "none"

        def separable(before: int, after: int, step: int = 1) -> nn.Sequential:
            convolution = SeparableConvolution(before, after, stride=step, dilation=dilation, activation=last)
            return nn.Sequential(nn.Identity() if last else nn.ReLU(), convolution)

        self.separable1 = separable(in_channels, widths[0])
        self.separable2 = separable(widths[0], widths[1])
        self.separable3: nn.Module | None = separable(widths[1], widths[2], stride)
        self.shortcut: nn.Module | None = None if last else nn.Identity()
        if shortcut == "convolution":
            convolution = nn.Conv2d(in_channels, widths[2], 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(widths[2]))

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B D H W"], Float[Tensor, "B E h w"]]:
        """What the third convolution gets, before its ReLU and stride, and what the module gives."""
        tap = self.separable2(self.separable1(x))  # B D H W
        if self.separable3 is None:
            return tap, tap
        result = self.separable3(tap)  # B E h w
        return tap, result if self.shortcut is None else result + self.shortcut(x)

    def end_at_tap(self) -> None:
        """Remove what follows the second convolution."""
        self.separable3 = self.shortcut = None


class AlignedXception(nn.Module):
    """Features of aligned Xception at the wanted strides: inputs of the strided convolutions, and the last map.

    Args:
        layers: Depth of the network.
        in_channels: Channels of the image; the first convolution of trained weights is adapted to it.
        strides: Strides of the wanted features, in the order in which they are wanted.
        output_stride: Largest stride, kept by dilation; None for 32.
        by_stage: Whether `strides` are those without dilation, as `TimmEncoder` has it.
        weights: As `TimmEncoder` has them: timm's, if they are on this machine.

    Attributes:
        strides: As given.
        channels: Channels of the features, in the order of `strides`.
        weights_used: Which weights the encoder started from, in words.

    Raises:
        ValueError: If the network lacks a stride, or if the wanted weights are not here.
    """

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        strides: Sequence[int],
        *,
        output_stride: Literal[8, 16] | None = None,
        by_stage: bool = False,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        largest = output_stride or STRIDES[-1]
        self.stem = nn.Sequential(ConvNormReLU(in_channels, 32, stride=2), ConvNormReLU(32, 64))
        self.flow = nn.ModuleList()
        self._taps: list[int] = []  # modules whose taps are features, as the last map is
        widths_of_features = []
        before, stride = 64, 2
        for widths, shortcut, step in _modules(layers):
            if step > 1:
                self._taps.append(len(self.flow))
                widths_of_features.append(widths[1])
            dilation = max(1, stride // largest)
            module_stride = step if stride < largest else 1
            self.flow.append(XceptionModule(before, widths, shortcut, stride=module_stride, dilation=dilation))
            before, stride = widths[2], stride * step
        widths_of_features.append(before)

        names = [stride if by_stage else min(stride, largest) for stride in STRIDES]
        missing = [stride for stride in strides if stride not in names]
        if missing:
            known = ", ".join(map(str, sorted(set(names))))
            raise ValueError(f"encoder 'aligned_xception{layers}' has no stride {missing[0]}; choose from {known}")
        # Of several features with one stride the last is the deepest.
        self._places = [len(names) - 1 - names[::-1].index(stride) for stride in strides]
        self.strides = tuple(strides)
        self.channels = tuple(widths_of_features[place] for place in self._places)
        self._end_at(max(self._places))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3
        initialize_convolutions(self)
        self.weights_used = self._start_from(layers, in_channels, weights)

    def forward(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features in the order of `strides`, each (B, channels, H / stride, W / stride) unless dilated by stage."""
        x = self.stem(image)  # B 64 H/2 W/2
        features = []
        for index, module in enumerate(self.flow):
            tap, x = module(x)
            if index in self._taps:
                features.append(tap)
        features.append(x)
        return [features[place] for place in self._places]

    def _end_at(self, place: int) -> None:
        """Remove what no feature up to this place needs."""
        if place < len(self._taps):
            del self.flow[self._taps[place] + 1 :]
            self.flow[-1].end_at_tap()  # type: ignore[operator] # all are XceptionModules

    def _start_from(self, layers: Layers, in_channels: int, weights: Weights) -> str:
        names = () if weights == "none" else _WEIGHTS[layers]
        files = {name: file for name in names if (file := local_weights(name)) is not None}
        if weights == "imagenet" and not files:
            raise ValueError(
                f"weights 'imagenet' of encoder 'aligned_xception{layers}' are not on this machine; download "
                f"timm/{names[0]} into the Hugging Face cache, or use weights 'none'"
            )
        for name, file in files.items():
            overlay = {"file": file}
            source = timm.create_model(name, pretrained=True, in_chans=in_channels, pretrained_cfg_overlay=overlay)
            trained = convert(source.state_dict())
            self.load_state_dict({key: trained[key] for key in self.state_dict()})
            return f"ImageNet (timm/{name}, local cache)"
        return "none, random start"


def _modules(layers: Layers) -> list[Module]:
    """Widths, shortcut and stride of each module, first to last."""
    entry_flow: list[tuple[int, int]] = [(128, 2), (256, 2), (728, 2)]
    if layers == 71:
        entry_flow = [(128, 2), (256, 1), (256, 2), (728, 1), (728, 2)]
    middle_flow = 8 if layers == 41 else 16
    middle_module: Module = ((728, 728, 728), "identity", 1)
    return [
        *(((width, width, width), "convolution", stride) for width, stride in entry_flow),
        *[middle_module] * middle_flow,
        ((728, 1024, 1024), "convolution", 2),
        ((1536, 1536, 2048), "none", 1),
    ]


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a timm `xception41`, `xception65` or `xception71` without its classifier, under our names."""
    rules = (
        (r"^blocks\.(\d+)\.stack\.conv(\d)\.", r"flow.\1.separable\2.1."),
        (r"^blocks\.(\d+)\.shortcut\.conv\.", r"flow.\1.shortcut.0."),
        (r"^blocks\.(\d+)\.shortcut\.bn\.", r"flow.\1.shortcut.1."),
        (r"\.conv_dw\.", ".depthwise."),
        (r"\.bn_dw\.", ".depthwise_norm."),
        (r"\.conv_pw\.", ".pointwise."),
        (r"\.bn_pw\.", ".pointwise_norm."),
        (r"^stem\.(\d)\.conv\.", r"stem.\1.convolution."),
        (r"^stem\.(\d)\.bn\.", r"stem.\1.norm."),
    )
    converted = {}
    for name, value in state_dict.items():
        new_name = name
        for pattern, replacement in rules:
            new_name = re.sub(pattern, replacement, new_name)
        if not name.startswith("head."):
            converted[new_name] = value
    return converted
