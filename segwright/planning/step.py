"""What a training step needs and does, told from the shapes alone before anything is allocated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segwright.planning.skeleton import make_skeleton

BYTES_PER_PARAMETER = 24
"""Weight, gradient, two moments of AdamW, averaged weight and its copy in validation, in single precision."""

OVERHEAD = 1.3
"""Peak over what autograd keeps: gradients in flight, buffers of the convolutions (benchmarks/memory.csv)."""

IN_USE = 0.6
"""Share of the free memory that a run may take; images in preparation and other programs have the rest."""

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Step:
    """A training step on images of one size.

    Attributes:
        weight_bytes: Memory that each process takes for weights and what belongs to them.
        image_bytes: Memory that each image of the batch takes.
        overrun: Name of a convolution whose stride is larger than the width of its map, and whose kernel is larger
            than a pixel; None if there is none. oneDNN leaves parts of its weights' gradient in bfloat16 unset on
            CPUs: whatever lay in the memory before, up to 1e38, reaches the optimizer
            (benchmarks/bfloat16_gradients.py shows it; seen with torch 2.15, a kin of pytorch issue 169688).
    """

    weight_bytes: int
    image_bytes: float
    overrun: str | None

    def num_bytes(self, batch_size: int, processes: int = 1) -> int:
        """Memory of a step of some processes together."""
        return round(processes * self.weight_bytes + batch_size * self.image_bytes)


def follow_step(
    network: Mapping[str, Any], in_channels: int, num_classes: int, crop: Sequence[int], *, bf16: bool
) -> Step:
    """Follow the shapes of one training step; nothing is computed.

    Args:
        network: Name and arguments, as a recipe has them.
        in_channels: Channels of the images.
        num_classes: Classes of the masks.
        crop: Height and width of the crops in pixels.
        bf16: Whether the step computes in bfloat16 where that is safe.

    Raises:
        ValueError: If the network does not take images.
    """
    built = make_skeleton(network, in_channels, num_classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        built.to_empty(device="cpu").train()
        # Batch normalization needs two images; what the step keeps grows in proportion to the batch.
        image = torch.empty(2, in_channels, *crop)
        overruns: list[str] = []
        for name, module in built.named_modules():
            if isinstance(module, _CONVOLUTIONS):
                module.register_forward_pre_hook(
                    lambda module, inputs, name=name: overruns.append(name) if _overruns(module, inputs[0]) else None
                )
        kept = _kept_bytes(built, image, bf16=bf16)
    parameters = sum(parameter.numel() for parameter in built.parameters())
    return Step(BYTES_PER_PARAMETER * parameters, OVERHEAD * kept / len(image), overruns[0] if overruns else None)


def _overruns(convolution: nn.Module, x: Tensor) -> bool:
    assert isinstance(convolution, _CONVOLUTIONS)
    return max(convolution.kernel_size) > 1 and any(
        stride > side for stride, side in zip(convolution.stride, x.shape[-2:], strict=True)
    )


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
