"""Tests of the weight average."""

import pytest
import torch
from torch import nn

from segwright.training.average import WeightAverage


def test_the_average_follows_its_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = WeightAverage(network)
    expected = 0.0
    for step in range(1, 50):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(network, step)
        decay = min(0.9995, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.network.weight) == pytest.approx(expected, rel=1e-5)


def test_the_trained_network_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    WeightAverage(network).update(network, 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_statistics_of_batch_norm_are_averaged_too() -> None:
    network = nn.BatchNorm2d(2)
    average = WeightAverage(network)
    with torch.no_grad():
        network.running_mean.fill_(11.0)
        network.num_batches_tracked.fill_(5)
    average.update(network, 1)
    assert average.network.running_mean.tolist() == pytest.approx([11 * 9 / 11] * 2)
    assert int(average.network.num_batches_tracked) == 5
