"""The whole way from raw pixels to classes as one module: what runs in PyTorch and what every exported file holds."""

import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segwright.inference.engine import input_dtype
from segwright.inference.segmenter import Segmenter

INPUT, OUTPUTS = "image", ("mask", "logits")
"""Names of the input and of the outputs in every exported file."""


class MaskGraph(nn.Module):
    """Mirrors the image to the network's stride, normalizes, runs the network, cuts, and takes the best class.

    Args:
        segmenter: A segmenter in evaluation mode.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Shaped[Tensor, "B H W C"]) -> tuple[UInt8[Tensor, "B H W"], Float32[Tensor, "B K H W"]]:
        """Classes and logits of raw images of any size; uint16 images come as float32 with the same values."""
        height, width = image.shape[1:3]
        stride = self.segmenter.stride
        if stride > 1:  # whole pixels are moved while they are still small
            image = image.index_select(1, _mirrored(height, stride, image.device))
            image = image.index_select(2, _mirrored(width, stride, image.device))
        logits = self.segmenter(image.permute(0, 3, 1, 2)).float()  # B K H W
        # As one row, which makes OpenVINO lay out each class by itself. If it cuts the map of all classes a pixel, as
        # convolutions leave it, and a size is free, it takes twice as long (DDRNet, 20 classes: 209 instead of 113 ms).
        size, row = logits.shape[2:], logits.flatten(2)
        mask = row.argmax(1).to(torch.uint8).unflatten(1, size)  # B H W
        return mask[:, :height, :width], row.unflatten(2, size)[:, :, :height, :width]


def _mirrored(length: int | torch.SymInt, stride: int, device: torch.device) -> Int64[Tensor, "L"]:
    """Index of the pixel at each place of an axis that goes on as its mirror image up to a multiple of the stride."""
    position = torch.arange((length + stride - 1) // stride * stride, device=device)
    # The period as a tensor, because the exporter cannot translate a remainder by a length that is not known yet.
    period = torch.full((1,), 2 * length, dtype=torch.int64, device=device)
    position = torch.remainder(position, period)
    return torch.minimum(position, period - 1 - position)


def trace(segmenter: Segmenter) -> ExportedProgram:
    """The graph of a segmenter for any batch, height and width.

    Args:
        segmenter: A segmenter in evaluation mode, on the CPU.
    """
    description, stride = segmenter.description, segmenter.stride
    # Sizes that share no factor with each other or the stride: nothing about them may be taken for a rule.
    size = 2, 2 * stride + 3, 3 * stride + 1, description.in_channels
    example = torch.zeros(size).to(getattr(torch, input_dtype(description.dtype)))
    free = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(MaskGraph(segmenter).eval(), (example,), dynamic_shapes=(free,))
