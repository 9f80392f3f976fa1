"""Tests of averages over the cells of a grid."""

import pytest
import torch
import torch.nn.functional as F

from segwright.layers.grid_pooling import GridPooling


@pytest.mark.parametrize("size", [(12, 18), (1, 1), (1, 7), (5, 9), (31, 47)])
@pytest.mark.parametrize("grid", [(1, 1), (6, 6), (8, 1), (2, 4)])
def test_averages_are_those_of_pytorch_at_any_size(size, grid):
    x = torch.randn(2, 5, *size)
    torch.testing.assert_close(GridPooling(*grid)(x), F.adaptive_avg_pool2d(x, grid))


def test_cells_overlap_where_the_grid_does_not_divide_the_map():
    row = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 1, 1, 5)
    assert GridPooling(1, 2)(row).flatten().tolist() == pytest.approx([7 / 3, 28 / 3])


def test_in_mixed_precision_averages_are_rounded_but_not_pulled_aside():
    torch.manual_seed(0)
    x = (torch.rand(1, 256, 61, 67) + 1).bfloat16()  # cells of 1403 pixels, a number that bfloat16 does not have
    with torch.autocast("cpu", torch.bfloat16):
        averages = GridPooling(1, 3)(x)
    assert averages.dtype == torch.bfloat16
    errors = averages.float() / F.adaptive_avg_pool2d(x.float(), (1, 3)) - 1
    assert errors.abs().max() < 2**-7
    assert errors.mean().abs() < 2**-11


def test_every_pixel_gets_its_share_of_the_gradient():
    x = torch.randn(1, 1, 5, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(GridPooling(2, 3), x)
