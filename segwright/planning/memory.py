"""How much memory a training step needs, told from the shapes alone before anything is allocated."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segwright import parts

BYTES_PER_PARAMETER = 24
"""Weight, gradient, two moments of AdamW, averaged weight and its copy in validation, in single precision."""

OVERHEAD = 1.3
"""Measured peak over what autograd keeps: gradients in flight, buffers of the convolutions, the allocator."""

IN_USE = 0.6
"""Share of the free memory that a run may take; images in preparation and other programs have the rest."""


def step_bytes(
    network: Mapping[str, Any], in_channels: int, num_classes: int, crop: Sequence[int], batch_size: int, *, bf16: bool
) -> int:
    """Memory of one training step in bytes.

    Args:
        network: Name and arguments, as a recipe has them.
        in_channels: Channels of the images.
        num_classes: Classes of the masks.
        crop: Height and width of the crops in pixels.
        batch_size: Images a batch.
        bf16: Whether the step computes in bfloat16 where that is safe.

    Raises:
        ValueError: If the network does not take images.
    """
    arguments = {key: value for key, value in network.items() if key != "name"}
    make = parts.constructor("network", network["name"])
    if "weights" in inspect.signature(make).parameters:
        arguments["weights"] = "none"
    with FakeTensorMode():
        built: nn.Module = make(in_channels, num_classes, **arguments)
        takes = getattr(built, "takes", "image")
        if takes != "image":
            raise ValueError(f"network {network['name']} takes a {takes}, but the data set holds images; take another")
        # Batch normalization needs two images; what the step keeps grows in proportion to the batch.
        image = torch.empty(2, in_channels, *crop)
        kept = _kept_bytes(built.train(), image, bf16=bf16)
        parameters = sum(parameter.numel() for parameter in built.parameters())
    return round(BYTES_PER_PARAMETER * parameters + OVERHEAD * kept * batch_size / len(image))


def _kept_bytes(network: nn.Module, image: Tensor, *, bf16: bool) -> int:
    """Bytes that autograd keeps from the forward pass for the backward pass, each storage once."""
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # tensors, so that no storage is freed and its number used again

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = network.forward_all(image) if hasattr(network, "forward_all") else [network(image)]  # type: ignore[operator]
        # As a loss does: probabilities of each output in single precision.
        probabilities = [output.float().log_softmax(dim=1) for output in outputs]
    held = {tensor.untyped_storage()._cdata: tensor for tensor in [*kept.values(), *outputs, *probabilities]}
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
