import math

import pytest
import torch

from segwright.networks.dpc import CELL, DPC, GRIDS, OPERATIONS, RATES, DensePredictionCell, sample_cell

SMALL = {"encoder": "test_resnet", "weights": "none", "channels": 8}


def joined_outputs(cell, x):
    joined = []
    cell.project.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    cell.eval()(x)
    return joined[0]


def test_the_published_cell_and_its_projection_have_the_published_weights():
    with torch.device("meta"):
        cell = DensePredictionCell(2048, CELL, 256)
    assert sum(parameter.numel() for parameter in cell.parameters()) == 1_150_976


def test_five_branches_of_256_channels_are_joined():
    cell = DensePredictionCell(16, CELL, 256)
    assert len(cell.branches) == 5
    assert joined_outputs(cell, torch.randn(1, 16, 3, 4)).shape == (1, 5 * 256, 3, 4)


def test_only_the_first_branch_of_the_published_cell_reads_the_encoder():
    cell = DensePredictionCell(2048, CELL, 256)
    assert [branch.depthwise.in_channels for branch in cell.branches] == [2048, 256, 256, 256, 256]


def test_rates_of_the_published_cell_differ_in_height_and_width():
    cell = DensePredictionCell(16, CELL, 8)
    assert [branch.depthwise.dilation for branch in cell.branches] == [(1, 6), (18, 15), (6, 3), (1, 1), (6, 21)]


def test_branches_read_what_the_cell_says():
    cell = DensePredictionCell(4, CELL, 4).eval()
    x = torch.randn(1, 4, 9, 11)
    b0 = cell.branches[0](x)
    b1 = cell.branches[1](b0)
    expected = [b0, b1, cell.branches[2](b1), cell.branches[3](b0), cell.branches[4](b0)]
    torch.testing.assert_close(joined_outputs(cell, x), torch.cat(expected, dim=1))


@pytest.mark.parametrize("operation", ["3x3", "pool"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 8)])
def test_any_rate_and_any_grid_keep_the_size(operation, size):
    sizes = [(1, 1), (1, 21), (21, 1), (7, 2)] if operation == "3x3" else [(1, 1), (1, 8), (8, 1), (3, 2)]
    cell = DensePredictionCell(4, [(-1, operation, *pair) for pair in sizes], 2)
    assert joined_outputs(cell, torch.randn(1, 4, *size)).shape == (1, 2 * len(sizes), *size)


def test_a_grid_of_one_cell_averages_the_whole_map():
    cell = DensePredictionCell(4, [(-1, "pool", 1, 1)], 2).eval()
    x = torch.randn(1, 4, 5, 6)
    expected = cell.branches[0].convolution(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, 5, 6)
    torch.testing.assert_close(cell.branches[0](x), expected)


def test_the_joined_branches_are_dropped_before_the_projection():
    cell = DensePredictionCell(4, CELL, 2, dropout=1.0).train()
    joined = []
    cell.project.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    cell(torch.randn(2, 4, 5, 6))
    assert not joined[0].any()


def test_the_search_space_has_the_published_size():
    assert len(OPERATIONS) == 1 + len(RATES) ** 2 + len(GRIDS) ** 2
    assert math.factorial(5) * len(OPERATIONS) ** 5 == pytest.approx(4.2e11, rel=0.01)


def test_sampled_cells_are_legal():
    cells = [sample_cell(seed) for seed in range(500)]
    assert all(len(cell) == 5 for cell in cells)
    branches = [(number, branch) for cell in cells for number, branch in enumerate(cell)]
    assert {(number, branch[0]) for number, branch in branches} == {
        (number, source) for number in range(5) for source in range(-1, number)
    }
    assert {tuple(branch[1:]) for _, branch in branches} == set(OPERATIONS)
    for cell in cells[:5]:
        assert joined_outputs(DensePredictionCell(4, cell, 2), torch.randn(1, 4, 6, 5)).shape == (1, 10, 6, 5)


def test_a_seed_gives_the_same_cell_again():
    assert sample_cell(7) == sample_cell(7)
    assert len({tuple(sample_cell(seed)) for seed in range(100)}) == 100
    # Written down, so that another version of the generator cannot change a search unnoticed.
    assert sample_cell(0) == [
        (-1, "3x3", 18, 12),
        (-1, "3x3", 12, 1),
        (1, "3x3", 21, 15),
        (2, "3x3", 12, 15),
        (2, "3x3", 15, 12),
    ]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([(-1, "1x1", 1, 1), (1, "1x1", 1, 1)], "branch 1 of the cell has the input 1"),
        ([(0, "1x1", 1, 1)], "branch 0 of the cell has the input 0"),
        ([(-2, "1x1", 1, 1)], "branch 0 of the cell has the input -2"),
        ([(-1, "5x5", 1, 1)], r"branch 0 of the cell is \[-1, '5x5', 1, 1\]"),
        ([(-1, "3x3", 0, 1)], r"branch 0 of the cell is \[-1, '3x3', 0, 1\]"),
        ([(-1, "3x3", 1)], r"branch 0 of the cell is \[-1, '3x3', 1\]"),
        ([], "the cell has no branches"),
    ],
)
def test_an_illegal_cell_is_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        DPC(3, 5, **SMALL, cell=cell)


def test_a_cell_may_come_as_lists():
    cell = [[-1, "3x3", 1, 6], [0, "pool", 2, 4], [-1, "1x1", 1, 1]]
    network = DPC(3, 5, **SMALL, cell=cell).eval()
    assert network(torch.randn(1, 3, 32, 48)).shape == (1, 5, 32, 48)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (18, 15)), (8, (36, 30))])
def test_rates_double_at_output_stride_8(output_stride, rates):
    network = DPC(3, 5, **SMALL, output_stride=output_stride)
    assert network.cell.branches[1].depthwise.dilation == rates


def test_both_output_strides_share_their_weights():
    at_16, at_8 = (DPC(3, 5, **SMALL, output_stride=stride).eval() for stride in (16, 8))
    at_8.load_state_dict(at_16.state_dict())
    assert at_8(torch.randn(1, 3, 32, 48)).shape == (1, 5, 32, 48)


def test_decoder_joins_256_and_48_channels():
    network = DPC(3, 5, encoder="test_resnet", weights="none")
    assert network.decoder[0].depthwise.in_channels == 304
