"""Tests of convolutions with mixed kernels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.layers.convolution import ConvNormReLU
from segwright.layers.dynamic_convolution import HOTTEST, DynamicConvolution, make_dynamic


def force(layer: DynamicConvolution, kernel: int) -> None:
    """Let one kernel have everything, whatever the image shows."""
    layer.anneal(1.0)
    nn.init.zeros_(layer.mix.weight)
    with torch.no_grad():
        layer.mix.bias.fill_(-1000.0)
        layer.mix.bias[kernel] = 1000.0


def test_four_kernels_have_the_published_number_of_parameters() -> None:
    layer = DynamicConvolution(256, 256, 3, kernels=4)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 2_376_964


@pytest.mark.parametrize("routing", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kernel", [0, 2])
def test_a_kernel_that_has_everything_is_a_plain_convolution(routing: str, kernel: int) -> None:
    layer = DynamicConvolution(4, 6, 3, kernels=3, padding=1, groups=2, routing=routing)
    nn.init.normal_(layer.bias)
    force(layer, kernel)
    x = torch.randn(2, 4, 7, 5)
    expected = F.conv2d(x, layer.weight[kernel], layer.bias[kernel], padding=1, groups=2)
    torch.testing.assert_close(layer(x), expected)


def test_one_kernel_is_a_plain_convolution() -> None:
    layer = DynamicConvolution(4, 6, 3, kernels=1, stride=2, padding=2, dilation=2, bias=False)
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[0], stride=2, padding=2, dilation=2))


def test_a_batch_gives_what_its_images_give_one_by_one() -> None:
    layer = DynamicConvolution(8, 6, 3, kernels=4, padding=1)
    layer.anneal(1.0)
    x = 3 * torch.randn(3, 8, 7, 5)
    assert layer.route(x).std(dim=0).max() > 0.01  # the images have shares of their own
    torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]), rtol=1e-5, atol=1e-6)


def test_shares_of_dynamic_convolution_sum_to_one_and_those_of_condconv_need_not() -> None:
    x = torch.randn(5, 8, 4, 4)
    torch.testing.assert_close(DynamicConvolution(8, 4).route(x).sum(dim=1), torch.ones(5))
    assert (DynamicConvolution(8, 4, routing="sigmoid").route(x).sum(dim=1) - 1).abs().max() > 0.1


def test_the_temperature_falls_from_thirty_to_one_and_sharpens_the_shares() -> None:
    layer, x = DynamicConvolution(8, 4), 10 * torch.randn(5, 8, 4, 4)
    temperatures, sharpest = [], []
    for progress in (0.0, 0.05, 0.1, 1.0):
        layer.anneal(progress)
        temperatures.append(float(layer.temperature))
        sharpest.append(layer.route(x).max(dim=1).values.mean().item())
    assert temperatures == [HOTTEST, 15.5, 1.0, 1.0]
    assert sharpest[0] < 0.3 < sharpest[-1]
    assert "temperature" in layer.state_dict()  # a saved network keeps it


def test_a_block_made_dynamic_keeps_its_shapes_and_its_pointwise_layers() -> None:
    block = nn.Sequential(ConvNormReLU(3, 8, stride=2), ConvNormReLU(8, 4, 1))
    x = torch.randn(2, 3, 8, 8)
    before = block(x).shape
    make_dynamic(block, 4)
    assert isinstance(block[0].convolution, DynamicConvolution)
    assert isinstance(block[1].convolution, nn.Conv2d)
    assert block(x).shape == before
