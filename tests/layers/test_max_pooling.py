"""Tests of pooling with windows that may be larger than the map."""

import pytest
import torch
import torch.nn.functional as F

from segwright.layers.max_pooling import max_pool


@pytest.mark.parametrize("size", [(12, 18), (7, 8), (6, 5), (1, 1)])
@pytest.mark.parametrize("window", [1, 2, 5])
def test_windows_that_fit_are_pooled_as_by_pytorch(size, window):
    x = torch.randn(2, 3, *size)
    assert torch.equal(max_pool(x, window), F.max_pool2d(x, [min(window, side) for side in size]))


def test_one_window_spans_a_side_that_is_shorter():
    x = torch.tensor([[-3.0, -1.0, -2.0, -9.0]]).reshape(1, 1, 1, 4)
    assert max_pool(x, 6).tolist() == [[[[-1.0]]]]
    assert max_pool(x, 2).tolist() == [[[[-1.0, -2.0]]]]


def test_the_gradient_goes_to_the_maxima():
    x = torch.randn(1, 1, 3, 7, requires_grad=True)
    max_pool(x, 4).sum().backward()
    assert x.grad.sum() == 1
    assert x.grad.flatten()[x[..., :4].flatten().argmax() // 4 * 7 + x[..., :4].flatten().argmax() % 4] == 1
