"""Gates that weight the channels or the pixels of a map by what the whole map shows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SqueezeExcitation(nn.Module):
    """Weights channels by a small network of their averages.

    Args:
        channels: Channels of the map.
        reduction: How many times narrower the hidden layer is.
        bias: Whether the two layers have a bias.

    Source: Hu, Shen and Sun, Squeeze-and-Excitation Networks, CVPR 2018, section 3 (https://arxiv.org/abs/1709.01507).
    """

    def __init__(self, channels: int, reduction: int = 16, *, bias: bool = True) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=bias)
        self.activation = nn.ReLU()
        self.excite = nn.Conv2d(hidden, channels, 1, bias=bias)
        self.gate = nn.Sigmoid()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Average, squeeze, excite, weight."""
        average = x.mean(dim=(2, 3), keepdim=True)  # B C 1 1
        weight: Tensor = self.gate(self.excite(self.activation(self.squeeze(average))))  # B C 1 1
        return x * weight


class CBAM(nn.Module):
    """Convolutional block attention: weights channels by averages and maxima, then pixels likewise.

    Args:
        channels: Channels of the map.
        reduction: How many times narrower the hidden layer of the channel gate is.

    Source: Woo et al., CBAM, ECCV 2018, figures 1 and 2 (https://arxiv.org/abs/1807.06521).
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.activation = nn.ReLU()
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)
        self.channel_gate = nn.Sigmoid()
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.spatial_gate = nn.Sigmoid()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Gate the channels, then the pixels."""
        # One shared network for both poolings: run them as one batch, so that no module is called twice.
        pooled = torch.cat([x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)])  # 2B C 1 1
        average, maximum = self.excite(self.activation(self.squeeze(pooled))).unflatten(0, (2, -1))  # each B C 1 1
        x = x * self.channel_gate(average + maximum)
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # B 2 H W
        weight: Tensor = self.spatial_gate(self.spatial(summary))  # B 1 H W
        return x * weight


class SpatialChannelSqueezeExcitation(nn.Module):
    """Squeeze-and-excitation over channels and over pixels side by side; the larger of the two results counts.

    Args:
        channels: Channels of the map.
        reduction: How many times narrower the hidden layer of the channel gate is.

    Source: Roy, Navab and Wachinger, Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze &
    Excitation' Blocks, IEEE TMI 2019 (https://arxiv.org/abs/1808.08127), scSE with the maximum. Their first paper, at
    MICCAI 2018 (https://arxiv.org/abs/1803.02579), adds the two.
    """

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        self.channel = SqueezeExcitation(channels, reduction)
        self.pixel = nn.Conv2d(channels, 1, 1, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Both gates, then the maximum."""
        return torch.maximum(self.channel(x), x * self.gate(self.pixel(x)))
