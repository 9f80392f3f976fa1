"""Tests of the learning rate that suits a network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright import parts
from segwright.planning.rate import RATES, SENSITIVE, bare_share, choose_rate
from segwright.planning.skeleton import make_skeleton

BARE = {"deeplabv1", "dilated_context", "fc_resnet", "fcn", "refinenet", "unet_original", "unetplusplus"}
ATTENTION = {"segformer"}


@pytest.mark.parametrize("name", parts.list_parts("network"))
def test_attention_and_networks_without_normalization_get_smaller_steps(name: str) -> None:
    settings = {"name": name, **parts.check_arguments("network", name, {})}
    factor = SENSITIVE if name in BARE | ATTENTION else 1.0
    assert choose_rate("adamw", make_skeleton(settings, 3, 5)) == RATES["adamw"] * factor


def test_every_optimizer_has_a_rate() -> None:
    assert set(RATES) == set(parts.list_parts("optimizer"))


def test_normalization_counts_before_and_after_a_convolution() -> None:
    convolution = lambda: nn.Conv2d(4, 4, 3)  # noqa: E731 - a new one each time
    assert bare_share(nn.Sequential(convolution(), nn.ReLU(), convolution())) == 1.0
    assert bare_share(nn.Sequential(convolution(), nn.BatchNorm2d(4), nn.ReLU())) == 0.0
    assert bare_share(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), convolution())) == 0.0
    assert bare_share(nn.Sequential(nn.Conv2d(4, 4, 1))) == 0.0  # mixes a pixel's channels only


@pytest.mark.parametrize(("factor", "survives"), [(1.0, False), (SENSITIVE, True)])
def test_thirteen_bare_layers_survive_only_the_smaller_rate(factor: float, survives: bool) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(13) for layer in (nn.Conv2d(256, 256, 3, padding=1), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    network = nn.Sequential(*layers, nn.Conv2d(256, 3, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATES["adamw"] * factor)
    x, mask = torch.randn(2, 256, 8, 8), torch.randint(0, 3, (2, 8, 8))
    losses = []
    for _ in range(4):
        loss = F.cross_entropy(network(x), mask)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (max(losses) < 2) is survives
