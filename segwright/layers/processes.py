"""Sums over the processes of a distributed run."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


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
    # The collective sums; autograd's backward sums the gradients too, which DDP's averaging then divides again.
    result: Tensor = all_reduce(value.contiguous()) if value.requires_grad else _plain_sum(value)  # type: ignore[no-untyped-call]
    return result


def _plain_sum(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
