"""UNet++: U-Nets of all depths in one, whose skips are densely joined convolutions; each depth has a head at full size.

Paper: Zhou, Rahman Siddiquee, Tajbakhsh and Liang, UNet++: A Nested U-Net Architecture for Medical Image Segmentation,
DLMIA 2018, https://arxiv.org/abs/1807.10165, figure 1.

**Differs from the paper**:
- dropout of one half follows each convolution, maps are doubled by transposed convolutions, and nothing is normalized:
  the paper leaves this open, the authors' Keras code has it so;
- a head has one channel a class, without the sigmoid;
- the accurate mode averages the probabilities of the heads, as the sigmoids in them suggest (others average logits);
- the modes act in evaluation; in training the outputs are always those of the heads, each with the weight 1;
- the variance of the first weights is smaller by the share that dropout keeps, because dropout raises the squares by
  as much: with the authors' weights the first logits have a deviation of 40; those of the heads start smaller too.
"""

import copy
import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier
from segwright.layers.resize import check_sides
from segwright.types import Paper


class Node(nn.Sequential):
    """H of equation 1: two times 3 x 3 convolution, normalization if wanted, ReLU, dropout."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: bool, dropout: float) -> None:
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            if norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        super().__init__(*layers)


class UNetPlusPlus(nn.Module):
    """The network of figure 1a.

    The node "i_j" is X^{i,j}: i steps down and, along the skip, the j-th; 15 of them at a depth of 4.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        width: Channels of the nodes at full size; each step down doubles them.
        depth: Steps down; 1 to 3 are the pruned networks L1 to L3 of the paper.
        deep_supervision: Whether all nodes X^{0,j} have a head, or only the deepest.
        mode: What to return in evaluation: "fast" is the deepest head, "accurate" the mean of all heads.
        norm: Which nodes have batch normalization: none, those of the encoder (j = 0), or all.
        up_kernel: Side of the transposed convolutions; at 2 they do not overlap.
        dropout: Share of the values that are dropped in training after each convolution.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16
    auxiliary_weight: ClassVar[float] = 1.0

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 32,
        depth: int = 4,
        deep_supervision: bool = True,
        mode: Literal["fast", "accurate"] = "fast",
        norm: Literal["none", "encoder", "all"] = "none",
        up_kernel: Literal[2, 4] = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth is {depth}, but UNetPlusPlus needs a depth of 1 or more")
        if mode == "accurate" and not deep_supervision:
            raise ValueError("mode is 'accurate', but needs the heads of deep_supervision; set that, or mode to 'fast'")
        self.depth = depth
        self.stride = 2**depth  # type: ignore[misc] # the class has that of figure 1
        self.mode = mode
        widths = [width * 2**i for i in range(depth + 1)]
        self.nodes, self.ups, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for i, channels in enumerate(widths):
            above = widths[i - 1] if i > 0 else in_channels
            self.nodes[f"{i}_0"] = Node(above, channels, norm=norm != "none", dropout=dropout)
            for j in range(1, depth + 1 - i):
                self.ups[f"{i}_{j}"] = nn.ConvTranspose2d(
                    widths[i + 1], channels, up_kernel, stride=2, padding=(up_kernel - 2) // 2
                )
                self.nodes[f"{i}_{j}"] = Node((j + 1) * channels, channels, norm=norm == "all", dropout=dropout)
        for j in range(1 if deep_supervision else depth, depth + 1):
            self.heads[str(j)] = nn.Conv2d(width, num_classes, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(depth))
        _initialize(self, kept=1 - dropout)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        skip = self._finest_skip(image)
        if self.mode == "accurate" and not self.training:
            return _mean_of_probabilities(self._head_logits(skip))  # B K H W
        logits: Tensor = self.heads[str(self.depth)](skip[-1])  # B K H W
        return logits

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K H W"]]:
        """Logits of the heads, the deepest first; in evaluation in the accurate mode, their mean before them."""
        logits = self._head_logits(self._finest_skip(image))
        if self.mode == "accurate" and not self.training:
            return [_mean_of_probabilities(logits), *logits]
        return logits

    def pruned(self, depth: int) -> "UNetPlusPlus":
        """A copy that ends at the head of X^{0,depth}, without the nodes that it does not need (figure 1c).

        It is the network with this `depth` and without `deep_supervision`, in the fast mode.

        Raises:
            ValueError: If there is no such head; without deep supervision only the deepest was trained.
        """
        if str(depth) not in self.heads:
            raise ValueError(
                f"depth is {depth}, but UNetPlusPlus has heads at {', '.join(self.heads)}; take one of these"
            )
        network = copy.deepcopy(self)
        network.depth = depth
        network.stride = 2**depth  # type: ignore[misc] # its own
        network.mode = "fast"
        for parts in (network.nodes, network.ups):
            for name in list(parts):
                if sum(int(index) for index in name.split("_")) > depth:
                    del parts[name]
        network.heads = nn.ModuleDict({str(depth): network.heads[str(depth)]})
        network.pools = network.pools[:depth]
        return network

    def _finest_skip(self, image: Tensor) -> list[Tensor]:
        """X^{0,0} to X^{0,depth}, all at full size (equation 1)."""
        check_sides(image, self.stride, "UNetPlusPlus")
        skips: list[list[Tensor]] = []  # skips[i][j] is X^{i,j}: B width·2^i H/2^i W/2^i
        for i in range(self.depth + 1):
            above = self.pools[i - 1](skips[i - 1][0]) if i > 0 else image
            skips.append([self.nodes[f"{i}_0"](above)])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                up = self.ups[f"{i}_{j}"](skips[i + 1][j - 1])
                skips[i].append(self.nodes[f"{i}_{j}"](torch.cat([up, *skips[i]], dim=1)))
        return skips[0]

    def _head_logits(self, skip: list[Tensor]) -> list[Tensor]:
        return [self.heads[j](skip[int(j)]) for j in reversed(list(self.heads))]


def _mean_of_probabilities(logits: list[Tensor]) -> Tensor:
    """Logits whose softmax is the mean of the softmaxes of the given ones."""
    stacked = torch.stack([F.log_softmax(output, dim=1) for output in logits])  # N B K H W
    return stacked.logsumexp(dim=0) - math.log(len(logits))  # B K H W


def _initialize(network: UNetPlusPlus, kept: float) -> None:
    """Draw weights as the authors' Keras code does, but for the share that dropout keeps and the heads."""
    for module in network.nodes.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(kept * 2 / fan_in))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type] # it has one
    for up in network.ups.values():
        nn.init.xavier_uniform_(up.weight)  # type: ignore[arg-type] # a convolution
        nn.init.zeros_(up.bias)  # type: ignore[arg-type] # it has one
    for head in network.heads.values():
        initialize_classifier(head)  # type: ignore[arg-type] # a convolution


NAME = "UNet++"
PAPER = Paper(
    "Zhou, Rahman Siddiquee, Tajbakhsh and Liang",
    "UNet++: A Nested U-Net Architecture for Medical Image Segmentation",
    "DLMIA",
    2018,
    "https://arxiv.org/abs/1807.10165",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "UNetPlusPlus": {},
    "UNetPlusPlus-L1": {"depth": 1, "deep_supervision": False},
    "UNetPlusPlus-L2": {"depth": 2, "deep_supervision": False},
    "UNetPlusPlus-L3": {"depth": 3, "deep_supervision": False},
    "UNetPlusPlus-L4": {"depth": 4, "deep_supervision": False},
    "UNetPlusPlus-64": {"width": 64},
    "UNetPlusPlus-64-BN": {"width": 64, "norm": "all", "dropout": 0.0},
    "UNet-2Plus": {"width": 64, "norm": "encoder", "up_kernel": 4, "dropout": 0.0},
}
PARAMETERS = {
    ("UNetPlusPlus", 3, 1): 9_042_276,
    ("UNetPlusPlus-L1", 3, 1): 101_537,
    ("UNetPlusPlus-L2", 3, 1): 511_681,
    ("UNetPlusPlus-L3", 3, 1): 2_205_537,
    ("UNetPlusPlus-L4", 3, 1): 9_042_177,
    ("UNetPlusPlus-L4", 1, 1): 9_041_601,
    ("UNetPlusPlus-64", 3, 1): 36_158_148,
    ("UNetPlusPlus-64-BN", 3, 1): 36_172_740,
    ("UNet-2Plus", 3, 1): 47_176_132,
}
"""Of the authors' Keras code; UNet-2Plus is the UNet++ that the authors of UNet 3+ compare with."""

build = UNetPlusPlus
