import pytest
import torch
from torch import nn

from segwright.layers.separable import SeparableConvolution


def count(block):
    return sum(value.numel() for value in block.parameters())


@pytest.mark.parametrize("dilation", [1, 3, (1, 6), (18, 15), (6, 21)])
def test_the_size_stays_at_any_dilation(dilation):
    block = SeparableConvolution(4, 6, dilation=dilation).eval()
    assert block(torch.randn(1, 4, 5, 7)).shape == (1, 6, 5, 7)


def test_the_taps_are_as_far_apart_as_the_dilation_says_in_height_and_width():
    block = SeparableConvolution(1, 1, dilation=(2, 3)).eval()
    image = torch.zeros(1, 1, 9, 11)
    image[0, 0, 4, 5] = 1
    seen = block.depthwise(image)[0, 0].nonzero().tolist()
    assert seen == [[row, column] for row in (2, 4, 6) for column in (2, 5, 8)]


def test_stride_halves_the_size():
    block = SeparableConvolution(4, 6, stride=2).eval()
    assert block(torch.randn(1, 4, 6, 8)).shape == (1, 6, 3, 4)


def test_weights_are_a_ninth_of_those_of_a_dense_convolution():
    block = SeparableConvolution(2048, 256)
    convolutions = sum(value.numel() for value in block.parameters() if value.ndim == 4)
    assert convolutions == 542_720
    assert count(block) == 542_720 + 2 * (2048 + 256)
    assert count(nn.Conv2d(2048, 256, 3, bias=False)) == 4_718_592


def test_nothing_follows_the_depthwise_convolution_if_so_wanted():
    block = SeparableConvolution(4, 6, norm_between=False).eval()
    x = torch.randn(1, 4, 5, 7)
    norm = block.pointwise_norm
    expected = norm(block.pointwise(block.depthwise(x))).relu()
    torch.testing.assert_close(block(x), expected)
    assert count(block) == 9 * 4 + 4 * 6 + 2 * 6


def test_normalization_and_relu_follow_both_convolutions():
    block = SeparableConvolution(4, 6).eval()
    nn.init.normal_(block.depthwise_norm.bias)
    x = torch.randn(1, 4, 5, 7)
    between = block.depthwise_norm(block.depthwise(x)).relu()
    torch.testing.assert_close(block(x), block.pointwise_norm(block.pointwise(between)).relu())


def test_without_activation_the_block_is_linear():
    block = SeparableConvolution(4, 6, activation=False).eval()
    x = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(block(-x), -block(x))
