"""What the processes of a distributed run share: sums and objects."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def num_processes() -> int:
    """Processes that train together; 1 outside a distributed run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, differentiable; the tensor itself when there is one process.

    A statistic that a loss or a normalization takes over the batch goes through here, so that N processes with a
    batch of B/N each compute what one process computes with a batch of B.
    """
    if num_processes() == 1:
        return value
    total: Tensor = _Sum.apply(value)
    return total


def gather_objects(own: T) -> list[T]:
    """The objects of all processes, by rank, in each of them."""
    if num_processes() == 1:
        return [own]
    found: list[Any] = [None] * num_processes()
    dist.all_gather_object(found, own)
    return found


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's gradient is the sum of all, which DDP's averaging divides again."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        return _all_reduce(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401 - torch's context has no type
        return _all_reduce(gradients[0])


def _all_reduce(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
