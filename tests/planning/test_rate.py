"""Tests of the learning rate that suits a network."""

import pytest
import torch
from torch import nn

from segwright import parts
from segwright.planning.rate import RATES, WITHOUT_NORMALIZATION, bare_share, choose_rate
from segwright.planning.skeleton import make_skeleton

BARE = {"fcn", "deeplabv1", "dilated_context", "unet_original", "unetplusplus", "refinenet"}
NORMALIZED = {"unet", "ddrnet", "bisenetv2", "deeplabv3plus", "pspnet", "fc_densenet", "residual_unet", "segnet", "pan"}


@pytest.mark.parametrize("name", sorted(BARE | NORMALIZED))
def test_networks_without_normalization_get_smaller_steps(name: str) -> None:
    settings = {"name": name, **parts.check_arguments("network", name, {})}
    factor = WITHOUT_NORMALIZATION if name in BARE else 1.0
    assert choose_rate("adamw", make_skeleton(settings, 3, 5)) == RATES["adamw"] * factor


def test_every_optimizer_has_a_rate() -> None:
    assert set(RATES) == set(parts.list_parts("optimizer"))


def test_normalization_counts_before_and_after_a_convolution() -> None:
    convolution = lambda: nn.Conv2d(4, 4, 3)  # noqa: E731 - a new one each time
    assert bare_share(nn.Sequential(convolution(), nn.ReLU(), convolution())) == 1.0
    assert bare_share(nn.Sequential(convolution(), nn.BatchNorm2d(4), nn.ReLU())) == 0.0
    assert bare_share(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), convolution())) == 0.0
    assert bare_share(nn.Sequential(nn.Conv2d(4, 4, 1))) == 0.0  # mixes a pixel's channels only


def test_thirteen_bare_layers_survive_the_rate_that_is_chosen_for_them() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(13) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATES["adamw"] * WITHOUT_NORMALIZATION)
    x = torch.randn(2, 32, 16, 16)
    for _ in range(5):
        network(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert network(x).abs().max() < 10
