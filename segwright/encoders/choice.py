"""The encoder of a name: one of ours where timm lacks it or builds it differently, timm's otherwise."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from segwright.encoders import mit, timm, xception
from segwright.encoders.timm import TimmEncoder, Weights

OURS: dict[str, Callable[..., nn.Module]] = {
    "aligned_xception41": partial(xception.AlignedXception, 41),
    "aligned_xception65": partial(xception.AlignedXception, 65),
    "aligned_xception71": partial(xception.AlignedXception, 71),
    **{name: partial(mit.MixTransformer, name) for name in mit.SIZES},
}
"""Constructors by name, with the arguments and attributes of `TimmEncoder` after the name."""

STRIDES: dict[str, tuple[int, ...]] = {
    "aligned_xception41": xception.STRIDES,
    "aligned_xception65": xception.STRIDES,
    "aligned_xception71": xception.STRIDES,
    **dict.fromkeys(mit.SIZES, mit.STRIDES),
}
"""Strides of the features of each of ours, without dilation."""


def make_encoder(
    name: str,
    in_channels: int,
    strides: Sequence[int],
    *,
    output_stride: Literal[8, 16] | None = None,
    by_stage: bool = False,
    weights: Weights = "auto",
) -> Any:  # noqa: ANN401 - TimmEncoder or a class with the same attributes
    """An encoder that returns a list of features at the wanted strides; arguments as `TimmEncoder` has them.

    Raises:
        ValueError: If there is no such encoder, or it lacks a stride, cannot dilate, or has no such weights.
    """
    if name in OURS:
        return OURS[name](in_channels, strides, output_stride=output_stride, by_stage=by_stage, weights=weights)
    return TimmEncoder(name, in_channels, strides, output_stride=output_stride, by_stage=by_stage, weights=weights)


def encoder_strides(name: str, output_stride: Literal[8, 16] | None = None) -> tuple[int, ...]:
    """Strides of the features of an encoder, in the order of its stages.

    Raises:
        ValueError: If there is no such encoder, or it cannot dilate to `output_stride`.
    """
    if name in mit.SIZES:
        mit.refuse_dilation(name, output_stride)
    if name in STRIDES:
        return tuple(min(stride, output_stride or stride) for stride in STRIDES[name])
    return timm.encoder_strides(name, output_stride)
