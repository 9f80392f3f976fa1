"""Tests of pooling that remembers, and of its reverse."""

import pytest
import torch
import torch.nn.functional as F

from segwright.layers.unpooling import pool, unpool


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (1, 1)])
def test_pooling_and_unpooling_equal_those_of_pytorch(size):
    x = torch.randn(2, 3, *size)
    pooled, indices = pool(x)
    expected = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
    assert torch.equal(pooled, expected[0])
    assert torch.equal(indices, expected[1])
    values = torch.randn_like(pooled)
    assert torch.equal(unpool(values, indices, size), F.max_unpool2d(values, indices, 2, output_size=size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 12), (9, 11), (1, 6)])
def test_of_equal_maxima_the_first_counts_as_in_pytorch(size, dtype):
    x = torch.randint(-1, 2, (2, 16, *size)).to(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        pooled, indices = pool(x.to(memory_format=layout))
        expected = F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)
        assert torch.equal(pooled, expected[0])
        assert torch.equal(indices, expected[1])


def test_even_sides_need_no_pixel_more():
    x = torch.randn(2, 3, 8, 12)
    assert all(torch.equal(*pair) for pair in zip(pool(x, is_even=True), pool(x), strict=True))


def test_unpooling_leaves_each_window_its_largest_value_in_its_place():
    x = torch.rand(2, 3, 8, 12)
    pooled, indices = pool(x)
    restored = unpool(pooled, indices, (8, 12))
    assert torch.equal(restored[restored != 0], x[restored != 0])
    windows = F.unfold(restored.flatten(0, 1)[:, None], 2, stride=2)
    assert torch.equal((windows != 0).sum(1), torch.ones(6, 24, dtype=torch.long))
    assert torch.equal(windows.amax(1).view_as(pooled), pooled)


def test_unpooling_runs_where_the_same_bits_are_asked_for():
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    pooled, indices = pool(x)
    torch.use_deterministic_algorithms(True)
    try:
        unpool(pooled, indices, (4, 4)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad is not None
    assert x.grad.sum() == pooled.numel()
