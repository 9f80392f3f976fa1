"""UNet 3+: every decoder stage joins maps of all five scales; the deepest map can tell whether there is any organ.

Paper: Huang et al., UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation, ICASSP 2020,
https://arxiv.org/abs/2004.08790; the network is figure 1c, a decoder stage figure 2, the guidance figure 3.

**Differs from the paper**:
- the heads have one channel a class, without the sigmoid, and their weights start smaller;
- the guidance is off by default: it makes sense where class 0 is the background and some images have nothing else;
- where the guidance sees no organ, the paper multiplies its one channel by 0; that would make all classes equal, so
  with two classes and more the background alone gets a constant, which wins at every pixel;
- the guidance acts in evaluation only: nothing can be learned through a decision, and a wrong one would take the
  gradient from the heads; its own cross-entropy counts once, as the paper gives no weight.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from segwright.layers.convolution import initialize_classifier, initialize_convolutions
from segwright.layers.resize import check_sides, resize, resize_logits
from segwright.types import Paper

LEVELS = 5
BACKGROUND_LOGIT = 10.0  # where there is no organ: a probability of 0.99995 between two classes


def _convolution(in_channels: int, out_channels: int, bias: bool) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


class FullScaleStage(nn.Module):
    """A decoder stage: the maps of all levels at the size of one, each convolved, then joined and fused (figure 2).

    Args:
        level: Level of the stage; 0 is the image's size, each further one half of it.
        channels: Channels of the maps, by level.
        branch_channels: Channels of each map when it is joined.
        bias: Whether the convolutions have a bias.
    """

    def __init__(self, level: int, channels: Sequence[int], branch_channels: int, bias: bool) -> None:
        super().__init__()
        self.level = level
        self.branches = nn.ModuleList(_convolution(width, branch_channels, bias) for width in channels)
        self.fusion = _convolution(LEVELS * branch_channels, LEVELS * branch_channels, bias)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B C _ _"]:
        """Pool the finer maps and enlarge the coarser ones, convolve, join, fuse."""
        branches = []
        for level, branch in enumerate(self.branches):
            x = maps[level]
            if level < self.level:
                x = F.max_pool2d(x, 2 ** (self.level - level))  # B _ h w
            elif level > self.level:
                x = resize(x, maps[self.level].shape[-2:])  # B _ h w
            branches.append(branch(x))  # B branch_channels h w
        result: Tensor = self.fusion(torch.cat(branches, dim=1))  # B 5·branch_channels h w
        return result


class Guidance(nn.Module):
    """The classification-guided module: is there an organ in the image (figure 3)?"""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.convolution = nn.Conv2d(in_channels, 2, 1)
        self.pool = nn.AdaptiveMaxPool2d(1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2"]:
        """Scores of "nothing but background" and of "some organ"."""
        scores: Tensor = self.pool(self.convolution(self.dropout(x)))  # B 2 1 1
        return scores.flatten(1)  # B 2


class UNet3Plus(nn.Module):
    """The network of figure 1c.

    Args:
        in_channels: Channels of the image.
        num_classes: Channels of the logits.
        width: Channels of the first map, which double with each level, and of each branch of a decoder stage.
        deep_supervision: Whether all five levels have a head for training, or only the finest.
        classification_guided: Whether an image without an organ, as the deepest map shows it, becomes background
            everywhere; class 0 has to be the background.
        bias: Whether the convolutions before a normalization, which cancels it, have a bias, as in the authors' code.
    """

    takes: ClassVar[str] = "image"
    stride: ClassVar[int] = 16
    auxiliary_weight: ClassVar[float] = 1.0
    background: Tensor

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 64,
        deep_supervision: bool = True,
        classification_guided: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.pools = nn.ModuleList(nn.MaxPool2d(2) for _ in range(LEVELS - 1))
        self.encoder = nn.ModuleList(
            nn.Sequential(_convolution(channels, out_channels, bias), _convolution(out_channels, out_channels, bias))
            for channels, out_channels in zip((in_channels, *widths), widths, strict=False)
        )
        self.decoder = nn.ModuleList()  # from the coarsest stage to the finest
        for level in reversed(range(LEVELS - 1)):
            self.decoder.append(FullScaleStage(level, widths, width, bias))
            widths[level] = LEVELS * width  # what the finer stages take from this level is the decoder's map
        self.heads = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=1) for channels in widths[: LEVELS if deep_supervision else 1]
        )
        self.guidance = Guidance(widths[-1]) if classification_guided else None
        background = torch.zeros(1, num_classes, 1, 1)
        background[:, 0] = BACKGROUND_LOGIT if num_classes > 1 else 0.0
        self.register_buffer("background", background, persistent=False)
        initialize_convolutions(self)
        for head in self.heads:
            initialize_classifier(head)  # type: ignore[arg-type] # a convolution
        if self.guidance is not None:
            initialize_classifier(self.guidance.convolution)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits at the image's size."""
        maps = self._maps(image)
        return self._guided([self.heads[0](maps[0])], maps[-1])[0]  # B K H W

    def forward_all(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B K H W"]]:
        """Logits of the heads, the finest first, all at the image's size."""
        return self._head_logits(self._maps(image))

    def forward_with_terms(
        self, image: Float[Tensor, "B C H W"], mask: Int[Tensor, "B H W"], ignore_label: int
    ) -> tuple[list[Float[Tensor, "B K H W"]], dict[str, Float[Tensor, ""]]]:
        """All outputs, and the cross-entropy of the guidance, if there is one, as "classification"."""
        maps = self._maps(image)
        if self.guidance is None:
            return self._head_logits(maps), {}
        term = presence_loss(self.guidance(maps[-1]), mask, ignore_label)
        return self._head_logits(maps), {"classification": term}

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Maps of the five levels: those of the decoder, and of the encoder at the coarsest."""
        check_sides(image, self.stride, "UNet3Plus")
        maps = [self.encoder[0](image)]  # B width H W
        for pool, stage in zip(self.pools, self.encoder[1:], strict=True):
            maps.append(stage(pool(maps[-1])))  # B width·2^level H/2^level W/2^level
        for level, stage in zip(reversed(range(LEVELS - 1)), self.decoder, strict=True):
            maps[level] = stage(maps)  # B 5·width H/2^level W/2^level
        return maps

    def _head_logits(self, maps: list[Tensor]) -> list[Tensor]:
        logits = [head(x) for head, x in zip(self.heads, maps, strict=False)]  # each B K H/2^level W/2^level
        logits[1:] = [resize_logits(x, logits[0].shape[-2:]) for x in logits[1:]]  # each B K H W
        return self._guided(logits, maps[-1])

    def _guided(self, logits: list[Tensor], deepest: Tensor) -> list[Tensor]:
        """Logits where there is an organ, `background` where there is none."""
        if self.guidance is None or self.training:
            return logits
        present = self.guidance(deepest).argmax(dim=1)[:, None, None, None].to(deepest.dtype)  # B 1 1 1
        return [x * present + self.background * (1 - present) for x in logits]


def presence_loss(scores: Float[Tensor, "B 2"], mask: Int[Tensor, "B H W"], ignore_label: int) -> Float[Tensor, ""]:
    """Binary cross-entropy of the guidance: an organ is any pixel that is neither of class 0 nor ignored.

    An image without a labelled pixel does not count.
    """
    labelled = mask != ignore_label
    present = (labelled & (mask != 0)).flatten(1).any(dim=1)  # B
    counts = labelled.flatten(1).any(dim=1).float()  # B
    target = F.one_hot(present.long(), 2).float()  # B 2
    losses = F.binary_cross_entropy_with_logits(scores.float(), target, reduction="none").mean(dim=1)  # B
    return (losses * counts).sum() / counts.sum().clamp(min=1)


NAME = "UNet 3+"
PAPER = Paper(
    "Huang et al.",
    "UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation",
    "ICASSP",
    2020,
    "https://arxiv.org/abs/2004.08790",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "UNet3Plus": {},
    "UNet3Plus-Single": {"deep_supervision": False},
    "UNet3Plus-CGM": {"classification_guided": True},
}
PARAMETERS = {
    ("UNet3Plus", 3, 1): 26_989_637,
    ("UNet3Plus-Single", 3, 1): 26_971_777,
    ("UNet3Plus-CGM", 3, 1): 26_991_687,
}
"""As in the authors' code; table 1 of the paper has 26.97 million."""

build = UNet3Plus
