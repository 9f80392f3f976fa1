"""Tests of the averages of weights."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from segwright.training.average import ExponentialMovingAverage, StochasticWeightAverage, make_average

NAMES = ["ema", "swa"]


def drift(network: nn.Module, seed: int) -> None:
    """Change weights and statistics as a step of training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.add_(1)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_the_exponential_average_follows_its_formula() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = ExponentialMovingAverage(network)
    expected = 0.0
    for step in range(1, 50):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(network, step, step / 49)
        decay = min(0.9995, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.network.weight) == pytest.approx(expected, rel=1e-5)


def test_the_stochastic_average_is_the_weights_themselves_before_the_last_quarter() -> None:
    network = small()
    average = StochasticWeightAverage(network)
    for step in range(1, 16):
        drift(network, step)
        average.update(network, step, step / 20)
        found = average.network.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


def test_the_stochastic_average_is_the_mean_of_the_last_quarter() -> None:
    network = small()
    average, seen = StochasticWeightAverage(network), []
    for step in range(1, 21):
        drift(network, step)
        average.update(network, step, step / 20)
        seen.append(copy.deepcopy(network.state_dict()))
        for name, tensor in average.network.state_dict().items():
            if step > 15 and tensor.is_floating_point():
                expected = torch.stack([state[name] for state in seen[15:]]).double().mean(0)
                torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-5)
    assert average.num_averaged == 5


def test_the_stochastic_average_agrees_with_that_of_torch() -> None:
    network = small()
    average = StochasticWeightAverage(network, start=0.0)
    theirs = AveragedModel(network, multi_avg_fn=get_swa_multi_avg_fn())  # of the weights; it cannot average counters
    for step in range(1, 8):
        drift(network, step)
        average.update(network, step, step / 7)
        theirs.update_parameters(network)
    for found, expected in zip(average.network.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach())


def test_progress_that_steps_over_the_start_begins_with_one_step() -> None:
    network = small()
    average = StochasticWeightAverage(network)
    for step, progress in enumerate((0.1, 0.9), start=1):  # a slow validation can take that long
        drift(network, step)
        average.update(network, step, progress)
    assert torch.equal(average.network[0].weight, network[0].weight)
    assert average.num_averaged == 1


@pytest.mark.parametrize("name", NAMES)
def test_the_trained_network_is_left_alone(name: str) -> None:
    network = small()
    before = copy.deepcopy(network.state_dict())
    average = make_average(name, network)
    assert average is not None
    for step in (1, 2, 3):
        average.update(network, step, 0.7 + step / 10)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())
    assert network.training
    assert not average.network.training


def test_statistics_of_batch_norm_are_averaged_too() -> None:
    network = nn.BatchNorm2d(2)
    average = ExponentialMovingAverage(network)
    with torch.no_grad():
        network.running_mean.fill_(11.0)
        network.num_batches_tracked.fill_(5)
    average.update(network, 1, 0.1)
    assert average.network.running_mean.tolist() == pytest.approx([11 * 9 / 11] * 2)
    assert int(average.network.num_batches_tracked) == 5


def test_statistics_of_batch_norm_are_the_mean_over_the_steps_of_the_weights() -> None:
    network = nn.BatchNorm2d(2)
    average = StochasticWeightAverage(network)
    for step in range(1, 9):
        with torch.no_grad():
            network.running_mean.fill_(float(step))
            network.running_var.fill_(step**2)
            network.num_batches_tracked.fill_(step)
        average.update(network, step, step / 8)
    assert average.network.running_mean.tolist() == pytest.approx([(7 + 8) / 2] * 2)
    assert average.network.running_var.tolist() == pytest.approx([(49 + 64) / 2] * 2)
    assert int(average.network.num_batches_tracked) == 8


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cut", [2, 7, 8])
def test_a_resumed_average_ends_with_the_same_bits(name: str, cut: int) -> None:
    network = small()
    straight, resumed = make_average(name, network), make_average(name, network)
    assert straight is not None
    assert resumed is not None
    for step in range(1, 11):
        drift(network, step)
        for average in (straight, resumed):
            average.update(network, step, step / 10)
        if step == cut:
            stored = io.BytesIO()
            torch.save(resumed.state_dict(), stored)
            stored.seek(0)
            resumed = make_average(name, small())
            assert resumed is not None
            resumed.load_state_dict(torch.load(stored, weights_only=True))
    found = resumed.network.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in straight.network.state_dict().items())


def test_none_averages_nothing() -> None:
    assert make_average("none", small()) is None
