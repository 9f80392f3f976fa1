"""Mix Transformer (MiT), the encoder of SegFormer: four stages of attention to few keys, without position codes.

Paper: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021,
https://arxiv.org/abs/2105.15203; the stages are the left half of figure 2, the parts of a block equations 1 to 3.

**Differs from the paper** (what it leaves open is as in the authors' published weights, which `convert` reads):
- a strided convolution reduces the sequence, the same linear map on squares of tokens, and layer normalization follows;
- layer normalization ends each stage;
- the feed-forward part is four times as wide in all stages, which the paper's parameter counts need;
- the parts of a block are left out at random in training, those of the last for a tenth of the images, earlier ones
  for fewer.

Within a stage, tokens lie in their places, B H W C: linear layers and normalization work on the last axis, and the
convolutions get the same memory as a channels-last map.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from segwright.encoders.timm import Weights
from segwright.layers.convolution import initialize_convolutions
from segwright.layers.resize import check_sides

STRIDES = (4, 8, 16, 32)
MERGINGS = ((7, 4, 3), (3, 2, 1), (3, 2, 1), (3, 2, 1))  # sides, strides and paddings of the patches
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)  # sides of the squares of tokens that give one key and one value
EXPANSION = 4
DROP_PATH = 0.1

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
"""Widths and depths of the four stages."""


class PatchMerging(nn.Module):
    """One token for each square of pixels or tokens: a strided convolution and layer normalization.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels of a token.
        side: Side of the squares; they overlap if it is larger than the stride.
        stride: Distance of the squares.
        padding: Zeros around the map.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int, padding: int = 0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, side, stride, padding)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B h w D"]:
        """Merge, then normalize."""
        result: Tensor = self.norm(self.convolution(x).permute(0, 2, 3, 1))  # B h w D
        return result


class EfficientSelfAttention(nn.Module):
    """Each token asks all squares of R x R tokens (equations 1 and 2).

    Args:
        channels: Channels of a token.
        heads: Groups of channels that attend each by itself.
        reduction: R; at 1 each token has a key and a value of its own.
    """

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.reduction = PatchMerging(channels, channels, reduction, reduction) if reduction > 1 else None
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Reduce the sequence, attend, mix the heads."""
        asked = x if self.reduction is None else self.reduction(x.permute(0, 3, 1, 2))  # B H/R W/R C
        key, value = self.key_value(asked).chunk(2, dim=-1)
        query, key = self._split(self.query(x)), self._split(key)
        # The same split by another way: OpenVINO 2026.4 computes nonsense from values that are split as the keys are,
        # once it has seen an image with a single key.
        value = value.flatten(1, 2).mT.unflatten(1, (self.heads, -1)).mT  # B heads H/R·W/R C/heads
        attended = F.scaled_dot_product_attention(query, key, value)  # B heads H·W C/heads
        result: Tensor = self.project(attended.transpose(1, 2).reshape(x.shape))  # B H W C
        return result

    def _split(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B heads L c"]:
        size = (x.shape[0], -1, self.heads, x.shape[-1] // self.heads)
        return x.reshape(size).transpose(1, 2)  # B heads H·W C/heads


class MixFFN(nn.Module):
    """Linear layer, depthwise 3 x 3, GELU, linear layer: the zeros at the border tell where a token is (equation 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.linear1 = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = nn.GELU()
        self.linear2 = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Widen, look around, narrow."""
        x = self.linear1(x).permute(0, 3, 1, 2)  # B 4·C H W
        x = self.activation(self.depthwise(x)).permute(0, 2, 3, 1)  # B H W 4·C
        result: Tensor = self.linear2(x)  # B H W C
        return result


class TransformerBlock(nn.Module):
    """Attention and feed-forward part, each on normalized tokens and added to what came in.

    Args:
        channels: Channels of a token.
        heads: Heads of the attention.
        reduction: R of the attention.
        drop_path: Share of the images for which a part is left out in training.
    """

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=1e-6)
        self.attention = EfficientSelfAttention(channels, heads, reduction)
        self.ffn_norm = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = MixFFN(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        """Attend, then feed forward."""
        x = x + self.drop_path(self.attention(self.attention_norm(x)))
        x = x + self.drop_path(self.ffn(self.ffn_norm(x)))
        return x


class Stage(nn.Module):
    """Overlapping patch merging, transformer blocks, layer normalization.

    Args:
        in_channels: Channels that come in.
        channels: Channels of a token.
        merging: Side, stride and padding of the patches.
        heads: Heads of the attention.
        reduction: R of the attention.
        drop_paths: One share a block.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        merging: tuple[int, int, int],
        heads: int,
        reduction: int,
        drop_paths: Sequence[float],
    ) -> None:
        super().__init__()
        self.merging = PatchMerging(in_channels, channels, *merging)
        self.blocks = nn.Sequential(*(TransformerBlock(channels, heads, reduction, share) for share in drop_paths))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Next coarser map."""
        tokens = self.norm(self.blocks(self.merging(x)))  # B h w D
        result: Tensor = tokens.permute(0, 3, 1, 2)  # B D h w
        return result


class MixTransformer(nn.Module):
    """Maps of a Mix Transformer at the wanted strides; stages that no map needs are not built.

    Args:
        name: One of `SIZES`.
        in_channels: Channels of the image.
        strides: Strides of the wanted features, in the order in which they are wanted: 4, 8, 16, 32.
        output_stride: None; a Mix Transformer cannot be dilated.
        by_stage: As `TimmEncoder` has it; without dilation it makes no difference.
        weights: "auto" or "none" for random ones; weights "imagenet" are not known here.

    Attributes:
        strides: As given.
        channels: Channels of the features, in the order of `strides`.
        weights_used: Which weights the encoder started from, in words.

    Raises:
        ValueError: If there is no such stride, or if dilation or trained weights are wanted.
    """

    def __init__(
        self,
        name: str,
        in_channels: int,
        strides: Sequence[int],
        *,
        output_stride: Literal[8, 16] | None = None,
        by_stage: bool = False,
        weights: Weights = "auto",
    ) -> None:
        super().__init__()
        refuse_dilation(name, output_stride)
        missing = [stride for stride in strides if stride not in STRIDES]
        if missing:
            raise ValueError(f"encoder '{name}' has no stride {missing[0]}; choose from {', '.join(map(str, STRIDES))}")
        if weights == "imagenet":
            raise ValueError(
                f"weights 'imagenet' of encoder '{name}' are not known here; use weights 'none', or an encoder of timm"
            )
        widths, depths = SIZES[name]
        places = [STRIDES.index(stride) for stride in strides]
        self.name = name
        self.strides = tuple(strides)
        self.channels = tuple(widths[place] for place in places)
        self.weights_used = "none, random start"
        drop_paths = [DROP_PATH * block / (sum(depths) - 1) for block in range(sum(depths))]
        self.stages = nn.ModuleList()
        for place in range(max(places) + 1):
            before = widths[place - 1] if place else in_channels
            shares = drop_paths[sum(depths[:place]) : sum(depths[: place + 1])]
            self.stages.append(Stage(before, widths[place], MERGINGS[place], HEADS[place], REDUCTIONS[place], shares))
        initialize_convolutions(self)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features in the order of `strides`, each (B, channels, H / stride, W / stride)."""
        check_sides(image, STRIDES[0] * REDUCTIONS[0], self.name)  # every stage has whole squares then
        x, maps = image, {}
        for stride, stage in zip(STRIDES, self.stages, strict=False):
            x = maps[stride] = stage(x)  # B D H/stride W/stride
        return [maps[stride] for stride in self.strides]


def refuse_dilation(name: str, output_stride: int | None) -> None:
    """Refuse an output stride.

    Raises:
        ValueError: If one is given.
    """
    if output_stride is not None:
        raise ValueError(f"encoder '{name}' cannot be dilated; take one that dilates to {output_stride}, as a ResNet")


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an encoder under the authors' names, which segmentation_models_pytorch keeps, under our names."""
    parts = {"patch_embed": "merging.", "block": "blocks.", "norm": "norm."}
    rules = (
        ("merging.proj.", "merging.convolution."),
        (".norm1.", ".attention_norm."),
        (".norm2.", ".ffn_norm."),
        (".attn.q.", ".attention.query."),
        (".attn.kv.", ".attention.key_value."),
        (".attn.sr.", ".attention.reduction.convolution."),
        (".attn.norm.", ".attention.reduction.norm."),
        (".attn.proj.", ".attention.project."),
        (".mlp.fc1.", ".ffn.linear1."),
        (".mlp.dwconv.dwconv.", ".ffn.depthwise."),
        (".mlp.fc2.", ".ffn.linear2."),
    )
    converted = {}
    for name, value in state_dict.items():
        found = re.match(r"(patch_embed|block|norm)(\d)\.(.*)", name)
        new_name = f"stages.{int(found[2]) - 1}.{parts[found[1]]}{found[3]}" if found else name
        for old, new in rules:
            new_name = new_name.replace(old, new)
        converted[new_name] = value
    return converted
