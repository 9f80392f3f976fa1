"""Any timm network as an encoder, asked for its features by stride; features come channels-first."""

import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float
from timm.layers.format import Format
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn

Weights = Literal["auto", "imagenet", "none"]

_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm names them on the hub, best first


class TimmEncoder(nn.Module):
    """Features of a timm network at the wanted strides.

    Args:
        name: Name of the network in timm, such as "resnet34" or "convnext_tiny.fb_in22k".
        in_channels: Channels of the image; timm adapts the first layer of trained weights to it.
        strides: Strides of the wanted features, in the order in which they are wanted.
        output_stride: Largest stride, kept by dilation; None for the network's own.
        by_stage: Whether `strides` are those without dilation, which tells apart the stages that dilation keeps at one
            stride: at an output stride of 8, a ResNet's stages 2, 3 and 4 are then 8, 16 and 32.
        weights: "imagenet" for weights that this machine already has, an error if it has none; "none" for random
            ones; "auto" for the first where possible. Nothing is ever downloaded.

    Attributes:
        strides: As given.
        channels: Channels of the features, in the order of `strides`.
        weights_used: Which weights the encoder started from, in words.

    Raises:
        ValueError: If timm has no such network, if the network lacks a stride, or if the wanted weights are not here.
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
        available = encoder_strides(name, output_stride)
        if by_stage:
            available = encoder_strides(name)
        missing = [stride for stride in strides if stride not in available]
        if missing:
            raise ValueError(f"encoder '{name}' has no stride {missing[0]}; it has {_list(sorted(set(available)))}")
        # Of several features with one stride the last is the deepest.
        indices = {stride: len(available) - 1 - available[::-1].index(stride) for stride in strides}
        order = sorted(set(indices.values()))
        file = None if weights == "none" else local_weights(name)
        if weights == "imagenet" and file is None:
            raise ValueError(
                f"weights 'imagenet' of encoder '{name}' are not on this machine; download {_hub_id(name) or 'them'} "
                "into the Hugging Face cache, or use weights 'none'"
            )
        arguments = _arguments(name, output_stride) | {"in_chans": in_channels, "out_indices": tuple(order)}
        if file is not None:
            arguments |= {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
        self.network: nn.Module = timm.create_model(name, features_only=True, **arguments)
        _fix_padding(self.network)
        self.strides = tuple(strides)
        self.channels = tuple(self.network.feature_info.channels()[order.index(i)] for i in indices.values())  # type: ignore[union-attr,operator] # timm's own class
        self.weights_used = "none, random start" if file is None else f"ImageNet ({_hub_id(name)}, local cache)"
        self._positions = [order.index(indices[stride]) for stride in strides]
        self._channels_last = getattr(self.network, "output_fmt", None) == Format.NHWC

    def forward(self, image: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features in the order of `strides`, each (B, channels, H / stride, W / stride) unless dilated by stage."""
        maps: list[Tensor] = self.network(image)
        features = [maps[position] for position in self._positions]
        return [x.permute(0, 3, 1, 2) for x in features] if self._channels_last else features


@cache
def encoder_strides(name: str, output_stride: int | None = None) -> tuple[int, ...]:
    """Strides of the features of a timm network, in the order of its stages.

    Raises:
        ValueError: If timm has no such network, or cannot dilate it to `output_stride`; the message has the remedy.
    """
    _check_name(name)
    try:
        with torch.device("meta"):
            network = timm.create_model(name, features_only=True, **_arguments(name, output_stride))
    except (TypeError, NotImplementedError, AssertionError, RuntimeError):
        remedy = "take another" if output_stride is None else f"take one that dilates to {output_stride}"
        raise ValueError(f"encoder '{name}' gives no features in timm; {remedy}, such as a ResNet") from None
    return tuple(network.feature_info.reduction())  # type: ignore[union-attr,operator] # timm's own class


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {_list(near, 'or')}?" if near else "timm.list_models() lists the known ones"
        raise ValueError(f"encoder '{name}' is not known to timm; {hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        hint = f"known are {_list(tagged)}" if tagged else f"there are none, take '{architecture}'"
        raise ValueError(f"encoder '{name}' names weights that timm does not know; {hint}")


def local_weights(name: str) -> str | None:
    """Path of the trained weights of a timm network in the local Hugging Face cache; None if they are not there."""
    config = timm.get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if config is None or repository is None:
        return None
    named = config.hf_hub_filename
    found = (try_to_load_from_cache(repository, file) for file in ([named] if named else _FILES))
    return next((path for path in found if isinstance(path, str)), None)


def _hub_id(name: str) -> str | None:
    config = timm.get_pretrained_cfg(name)
    identifier: str | None = config.hf_hub_id if config else None
    return identifier


def _arguments(name: str, output_stride: int | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {} if output_stride is None else {"output_stride": output_stride}
    if name.startswith("swin"):
        arguments["strict_img_size"] = False  # otherwise Swin takes images of its training size only
    return arguments


def _fix_padding(network: nn.Module) -> None:
    """Pad the averages in the shortcuts of dilated stages by a number, where timm computes it from the map's size.

    At a stride of 1 it is the same at every size, and not all engines can compute it.
    """
    for parent in list(network.modules()):
        for name, pool in list(parent.named_children()):
            if isinstance(pool, AvgPool2dSame) and pool.stride == (1, 1):
                height, width = (side - 1 for side in pool.kernel_size)  # type: ignore[union-attr] # timm has both
                padding = nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2))
                average = nn.AvgPool2d(pool.kernel_size, 1, count_include_pad=pool.count_include_pad)
                setattr(parent, name, nn.Sequential(padding, average))


def _list(items: Sequence[object], conjunction: str = "and") -> str:
    *first, last = (str(item) for item in items)
    return f"{', '.join(first)} {conjunction} {last}" if first else last
