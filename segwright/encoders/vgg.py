"""VGG16 as the early segmentation networks use it: thirteen convolutions in five stages, without the pooling.

Paper: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015,
https://arxiv.org/abs/1409.1556, table 1, column D. Each network pools in its own way (ceiling sizes, indices,
windows of 3, stride 1), so pooling is left to it. timm's VGG can neither dilate nor do without its own pooling.
"""

from collections.abc import Mapping

import torch
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from segwright.encoders.timm import Weights, local_weights

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)


class VGG16(nn.Module):
    """The stages of VGG16, to be called one by one with a pooling between them.

    Args:
        in_channels: Channels of the image; the first layer of trained weights is adapted to it, as timm does.
        norm: Whether batch normalization follows each convolution.
        bias: Whether the convolutions have a bias.
        dilation: Of the three convolutions of the last stage.
        first_padding: Padding of the very first convolution.
        padded: Whether the other convolutions keep the size; without, each takes `dilation` pixels off every side.
        width: Channels of the first stage, of which the others have 2, 4, 8 and 8 times as many.
        weights: As `TimmEncoder` has them; ImageNet weights need the biases and the width of 64.

    Attributes:
        stages: Five sequences of convolution, normalization if wanted, and ReLU.
        channels: Channels of the five stages.
        weights_used: Which weights the encoder started from, in words.
        fully_connected: Weight and bias of the two hidden layers of the classifier, as convolutions of 7 x 7 and
            1 x 1, if ImageNet weights were used, until `hand_over` or the network itself empties it: 480 MB.

    Raises:
        ValueError: If ImageNet weights are wanted and not on this machine, or do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        norm: bool = False,
        bias: bool = True,
        dilation: int = 1,
        first_padding: int = 1,
        padded: bool = True,
        width: int = 64,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.channels = tuple(width * channels // CHANNELS[0] for channels in CHANNELS)
        before = in_channels
        for stage, (channels, count) in enumerate(zip(self.channels, CONVOLUTIONS, strict=True)):
            rate = dilation if stage == len(CHANNELS) - 1 else 1
            layers: list[nn.Module] = []
            for number in range(count):
                padding = first_padding if stage == number == 0 else rate * padded
                layers.append(nn.Conv2d(before, channels, 3, padding=padding, dilation=rate, bias=bias))
                layers.extend([nn.BatchNorm2d(channels), nn.ReLU()] if norm else [nn.ReLU()])
                before = channels
            self.stages.append(nn.Sequential(*layers))
        self.fully_connected: tuple[tuple[Tensor, Tensor], ...] = ()
        self.weights_used = "none, random start"
        for convolution in self.convolutions():
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        self._start_from(weights, "vgg16_bn" if norm else "vgg16", fits=bias and width == CHANNELS[0])

    def convolutions(self) -> list[nn.Conv2d]:
        """The thirteen convolutions, first to last."""
        return [module for module in self.stages.modules() if isinstance(module, nn.Conv2d)]

    def load(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of timm's or torchvision's VGG16, whose layers follow each other in the same order."""
        layers = [module for module in self.stages.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
        # By number, because a safetensors file has features.10 before features.2.
        numbers = sorted({int(name.split(".")[1]) for name in state_dict if name.startswith("features.")})
        for number, layer in zip(numbers, layers, strict=True):
            prefix = f"features.{number}."
            values = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
            if layer is layers[0]:
                values["weight"] = adapt_input_conv(layers[0].weight.shape[1], values["weight"])
            layer.load_state_dict(values)
        hidden = ("pre_logits.fc1", "pre_logits.fc2", "classifier.0", "classifier.3")  # in timm, and in torchvision
        found = [
            (state_dict[f"{name}.weight"], state_dict[f"{name}.bias"])
            for name in hidden
            if f"{name}.weight" in state_dict
        ]
        self.fully_connected = tuple(
            (weight.reshape(len(bias), -1, side, side), bias)
            for (weight, bias), side in zip(found, (7, 1), strict=False)
        )

    def hand_over(self, *convolutions: nn.Conv2d) -> None:
        """Start convolutions from the hidden layers of the classifier, if they were loaded, and forget these.

        A convolution that is narrower than its layer takes evenly spaced channels, and a smaller one evenly spaced
        taps: every fourth of 4096 for 1024, and the first, middle and last of 7 for 3.

        Source: Chen et al., DeepLab, ICLR 2015, section 3.2, "decimation" (https://arxiv.org/abs/1412.7062).
        """
        for convolution, (weight, bias) in zip(convolutions, self.fully_connected, strict=False):
            values = weight
            for axis, count in enumerate(convolution.weight.shape):
                values = values.index_select(axis, _spaced(count, weight.shape[axis], ends=axis > 1))
            channels = _spaced(convolution.out_channels, len(bias), ends=False)
            convolution.load_state_dict({"weight": values, "bias": bias[channels]})
        self.fully_connected = ()

    def _start_from(self, weights: Weights, name: str, *, fits: bool) -> None:
        if weights == "imagenet" and not fits:
            raise ValueError(
                "weights 'imagenet' of VGG16 need convolutions with a bias and the width of 64; use weights 'none'"
            )
        file = local_weights(name) if weights != "none" and fits else None
        if weights == "imagenet" and file is None:
            raise ValueError(
                f"weights 'imagenet' of {name} are not on this machine; download timm/{name}.tv_in1k into the Hugging "
                "Face cache, or use weights 'none'"
            )
        if file is not None:
            self.load(load_state_dict(file))
            self.weights_used = f"ImageNet (timm/{name}.tv_in1k, local cache)"


def _spaced(count: int, length: int, *, ends: bool) -> Tensor:
    """Evenly spaced indices below `length`, with both ends among them if wanted."""
    positions = torch.arange(count, device="cpu")
    return positions * (length - 1) // max(count - 1, 1) if ends else positions * length // count
