"""Averages over the cells of a grid, in a form that every engine can run for maps of any size."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class GridPooling(nn.Module):
    """Average over each cell of a grid that is laid over the map, which may have fewer pixels than the grid has cells.

    This is `AdaptiveAvgPool2d` as a matrix product. The exporter to ONNX translates that one for the size it has seen,
    and the file gives other averages at other sizes without a word.

    Args:
        rows: Cells from top to bottom.
        columns: Cells from left to right.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C rows columns"]:
        """Sum up each cell, then divide by its pixels."""
        height, width = x.shape[2:]
        below, beside = _members(self.rows, height, x.device), _members(self.columns, width, x.device)
        cells = below[:, None, :, None] & beside[:, None, :]  # rows columns H W
        members = cells.reshape(self.rows * self.columns, height * width).to(x.dtype)  # N H·W
        # Ones are exact in bfloat16; shares of a cell, or the number of its pixels, would not be.
        averages = (x.flatten(2) @ members.T) / members.sum(dim=1, dtype=torch.float32)  # B C N
        return averages.to(x.dtype).reshape(*x.shape[:2], self.rows, self.columns)  # B C rows columns


def _members(cells: int, length: int, device: torch.device) -> Bool[Tensor, "N L"]:
    """Whether a pixel belongs to a cell: from floor(n L / N) up to, but without, ceil((n + 1) L / N)."""
    number = torch.arange(cells, device=device)[:, None]  # N 1
    # The length as a tensor, because the exporter cannot translate products with a length that is not known yet.
    pixels = torch.full((1,), length, dtype=torch.int64, device=device)
    position = torch.arange(length, device=device)  # L
    return (position >= number * pixels // cells) & (position < ((number + 1) * pixels + cells - 1) // cells)
