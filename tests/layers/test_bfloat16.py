"""Tests of the guard against wrong gradients in bfloat16."""

import pytest
import torch
from torch import nn

from segwright import parts
from segwright.layers.bfloat16 import goes_wrong, guard_gradients


def make(in_channels: int, groups: int = 1, dilation: int = 2, kernel_size: int = 3) -> nn.Conv2d:
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(in_channels, in_channels, kernel_size, padding=padding, dilation=dilation, groups=groups)


@pytest.mark.parametrize(
    ("convolution", "expected"),
    [
        (make(40), True),
        (make(64, groups=64), True),
        (make(64), False),
        (make(64, groups=4), False),
        (make(40, dilation=1), False),
        (make(40, kernel_size=1), False),
    ],
)
def test_dilated_groups_that_fill_no_blocks_go_wrong(convolution: nn.Conv2d, expected: bool) -> None:
    assert goes_wrong(convolution) == expected
    assert guard_gradients(nn.Sequential(convolution)) == int(expected)


@pytest.mark.parametrize("convolution", [make(40), make(64, groups=64), make(40, dilation=6)])
def test_guarded_gradients_in_bfloat16_are_those_of_float32(convolution: nn.Conv2d) -> None:
    """On processors with AVX512-BF16 the unguarded one gives infinite gradients, or ends the process."""
    torch.manual_seed(0)
    network = nn.Sequential(convolution).to(memory_format=torch.channels_last).train()
    guard_gradients(network)
    image = torch.randn(2, convolution.in_channels, 40, 48).to(memory_format=torch.channels_last)
    for _ in range(3):  # what the memory holds changes from call to call
        with torch.autocast("cpu", torch.bfloat16):
            y = network(image)
        direction = torch.randn_like(y)
        found = torch.autograd.grad(y, convolution.weight, direction)[0]
        exact = torch.autograd.grad(network(image), convolution.weight, direction.float())[0]
        assert float((found - exact).abs().max() / exact.abs().max()) < 0.02


@pytest.mark.parametrize(
    ("kernel_size", "stride", "size", "is_exact"),
    [(7, 1, (2, 2), True), (7, 1, (2, 3), True), (5, 1, (4, 1), True), (3, 2, (1, 1), True), (7, 1, (3, 3), False)],
)
def test_small_maps_train_in_float32(kernel_size: int, stride: int, size: tuple[int, int], is_exact: bool) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(512, 16, kernel_size, stride, padding=kernel_size // 2)
    network = nn.Sequential(convolution).to(memory_format=torch.channels_last).train()
    guard_gradients(network)
    image = torch.randn(2, 512, *size).to(memory_format=torch.channels_last)
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16):
            y = network(image)
        assert (y.dtype == torch.float32) == is_exact
        direction = torch.randn_like(y)
        # Memory that is given out next holds no numbers.
        for length in (2**10, 2**14, 2**17, 2**19):
            torch.full((length,), torch.nan)
        found = torch.autograd.grad(y, convolution.weight, direction)[0]
        exact = torch.autograd.grad(network(image), convolution.weight, direction.float())[0]
        assert float((found - exact).abs().max() / exact.abs().max()) < 0.02
    with torch.autocast("cpu", torch.bfloat16):
        assert network.eval()(image).dtype == torch.bfloat16


def test_a_guarded_network_predicts_channels_last() -> None:
    network = nn.Sequential(make(40)).to(memory_format=torch.channels_last).eval()
    guard_gradients(network)
    seen: list[bool] = []
    network[0].register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    network(torch.randn(1, 40, 8, 8).to(memory_format=torch.channels_last))
    assert seen == [True]


def test_separable_pyramids_are_guarded() -> None:
    settings = {"encoder": "test_resnet", "weights": "none"}
    network = parts.build("network", "deeplabv3plus", settings, in_channels=3, num_classes=2)
    assert guard_gradients(network) > 0
