"""Batch normalization whose statistics cover the batches of all processes, on CPUs and GPUs alike."""

import torch
from jaxtyping import Float
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from segwright.layers.processes import num_processes, sum_over_processes


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization over all processes; in one process it is `nn.BatchNorm2d`.

    Arguments, parameters and buffers are those of `nn.BatchNorm2d`. Sub-modules, if there are any, follow the
    normalization in their order: so has timm an activation inside its normalization.
    """

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalize with the statistics of all processes' pixels in training, with the running ones in evaluation."""
        x = self._normalize(input) if self.training and num_processes() > 1 else super().forward(input)
        for following in self.children():
            x = following(x)
        return x

    def _normalize(self, x: Tensor) -> Tensor:
        wide = x.float()
        variance, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)  # C each
        count = mean.new_full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        # Squares in double precision: their difference below would cancel in single precision.
        mean, variance = mean.double(), variance.double()
        sums = sum_over_processes(torch.cat([count * mean, count * (variance + mean**2)]))  # 2·C
        count = sum_over_processes(count)
        mean, square = (sums / count).chunk(2)  # C each
        variance = (square - mean**2).clamp(min=0)
        self._update(mean.detach(), variance.detach() * count / (count - 1))
        scale = torch.rsqrt(variance + self.eps)
        scale, shift = scale.float(), (-mean * scale).float()
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        step = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean), step)
        self.running_var.lerp_(variance.to(self.running_var), step)


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """Replace every `nn.BatchNorm2d` of a network, in place, by one over all processes with the same state.

    Returns:
        The network; if it is itself a batch normalization, its replacement.

    Raises:
        ValueError: If the network has a kind of `nn.BatchNorm2d` whose workings are not known here.
    """
    if isinstance(network, nn.BatchNorm2d) and not isinstance(network, SyncedBatchNorm2d):
        return _synced(network)
    for name, child in network.named_children():
        replaced = synchronize_batch_norm(child)
        if replaced is not child:
            setattr(network, name, replaced)
    return network


def _synced(norm: nn.BatchNorm2d) -> SyncedBatchNorm2d:
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        raise ValueError(f"{type(norm).__name__} cannot run over several processes; use nn.BatchNorm2d in its place")
    synced = SyncedBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(synced, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(synced, name, buffer)
    for name, child in norm.named_children():
        setattr(synced, name, child)
    return synced.train(norm.training)
