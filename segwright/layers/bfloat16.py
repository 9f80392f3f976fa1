"""Keeps convolutions away from kernels that train wrongly in bfloat16 on CPUs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK = 16


def guard_gradients(network: nn.Module) -> int:
    """Have convolutions train in another layout or in float32 where bfloat16 goes wrong.

    Dilated ones take the contiguous layout while they train, where channels-last goes wrong:
    oneDNN leaves parts of the gradient of their weights unset, or crashes, where a dilated channels-last convolution
    has groups of a number of channels that is no multiple of 16 (benchmarks/bfloat16_gradients.csv; seen with torch
    2.15). Depthwise ones, which separable pyramids are made of, are among them. Values stay the same; the change of
    layout costs a few copies.

    Where a map is smaller than padding or stride, as the 2 x 2 pixels before FCN's kernel of 7 x 7, parts of the
    kernel that touch no pixel get no gradient in either layout, but whatever the memory held. Such maps are small,
    and are computed in float32. To be left out when the kernels are mended.

    Args:
        network: Changed in place: layout of weights, and a hook before each such convolution.

    Returns:
        Number of convolutions whose layout is guarded.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _least_side(module) > 1:
            module.forward = partial(_in_float32_if_small, module.forward, module)  # type: ignore[method-assign]
    guarded = [module for module in network.modules() if isinstance(module, nn.Conv2d) and goes_wrong(module)]
    for module in guarded:
        # Depthwise weights are contiguous in both layouts; only a clone gets the strides that the kernels look at.
        module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
        module.register_forward_pre_hook(_contiguous)
    return len(guarded)


def goes_wrong(convolution: nn.Conv2d) -> bool:
    """Whether a convolution has a kernel and a dilation above 1 and groups that do not fill blocks of 16 channels."""
    is_dilated = max(convolution.dilation) > 1 and max(convolution.kernel_size) > 1
    return is_dilated and convolution.in_channels // convolution.groups % _BLOCK != 0


def _least_side(convolution: nn.Conv2d) -> int:
    """Pixels that a side of a map needs for all parts of the kernel to get their gradient; dilated ones need none."""
    if max(convolution.dilation) > 1:
        return 1
    reach = max(convolution.kernel_size) // 2 if isinstance(convolution.padding, str) else max(convolution.padding)
    return max(reach, *convolution.stride)


def _in_float32_if_small(forward: Callable[[Tensor], Tensor], module: nn.Conv2d, x: Tensor) -> Tensor:
    if not module.training or min(x.shape[2:]) >= _least_side(module):
        return forward(x)
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


def _contiguous(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
    return (inputs[0].contiguous(),) if module.training else None
