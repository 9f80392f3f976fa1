import pytest
import torch
from torch import nn

from segwright.layers.convolution import ConvNormReLU, initialize_convolutions


@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2)])
def test_stride_1_keeps_the_size_and_stride_2_halves_it(kernel_size, dilation):
    x = torch.randn(2, 4, 8, 12)
    assert ConvNormReLU(4, 6, kernel_size, dilation=dilation)(x).shape == (2, 6, 8, 12)
    assert ConvNormReLU(4, 6, kernel_size, dilation=dilation, stride=2)(x).shape == (2, 6, 4, 6)


def test_convolution_has_no_bias_and_groups_are_taken():
    block = ConvNormReLU(4, 8, groups=4)
    assert block.convolution.bias is None
    assert block.convolution.weight.shape == (8, 1, 3, 3)


@pytest.mark.parametrize("groups", [1, 256])
def test_initial_weights_keep_the_variance(groups):
    torch.manual_seed(0)
    convolution = nn.Conv2d(256, 256, 3, padding=1, groups=groups)
    initialize_convolutions(nn.Sequential(convolution))
    output = convolution(torch.randn(1, 256, 32, 32).relu())
    assert output[..., 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.15)
    assert not convolution.bias.any()
