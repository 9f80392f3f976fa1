"""Tests of full supervision."""

import pytest
import torch
from torch import Tensor, nn

from segwright.methods.supervised import Supervised


class ThreeOutputs(nn.Module):
    auxiliary_weight = 0.4

    def forward_with_terms(
        self, image: Tensor, mask: Tensor, ignore_label: int
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [image, 2 * image, 3 * image], {"own": image.mean()}


class Total(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.factor * logits.sum()


def test_the_total_weighs_losses_and_auxiliary_outputs() -> None:
    losses = {"a": (1.0, Total(1.0)), "b": (0.5, Total(4.0))}
    method = Supervised(ThreeOutputs(), losses, auxiliary_weight=0.1)
    got = method(torch.ones(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.long))
    once = 18.0
    assert float(got["a"]) == once
    assert float(got["b"]) == 4 * once
    assert float(got["own"]) == 1
    assert float(got["loss"]) == pytest.approx((once + 0.5 * 4 * once) * (1 + 0.1 * (2 + 3)) + 1)
