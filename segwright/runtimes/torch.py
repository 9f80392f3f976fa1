"""A segmenter on PyTorch: as it is, or compiled for this machine."""

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn

from segwright.inference.description import Description
from segwright.inference.engine import Scores, input_dtype
from segwright.inference.graph import MaskGraph
from segwright.inference.segmenter import Segmenter
from segwright.layers.hardware import uses_bf16

GPU_BATCH = 4
"""Tiles at a time on a GPU; a processor computes one as fast as several."""


class TorchEngine:
    """An engine around a segmenter, which stays what it is: an engine made during training follows its weights.

    Args:
        segmenter: A segmenter in evaluation mode, on the device that is to compute.
        precision: "bf16", "fp32", or "auto": bf16 where the device has it in hardware.
        is_compiled: Compile the network for each size of images, with constant weights: seconds to a minute before the
            first one, faster then. The weights must not change any more.
        note: Words to add to `runtime`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        precision: str = "auto",
        is_compiled: bool = False,
        note: str = "",
    ) -> None:
        self._segmenter = segmenter
        self._is_bf16 = uses_bf16(precision, segmenter.device)
        self._is_compiled, self._note = is_compiled, note
        graph: nn.Module = MaskGraph(segmenter).eval()
        if is_compiled:
            graph = torch.compile(graph, dynamic=False, options={"freezing": True})  # type: ignore[assignment]
        self._graph = graph

    @property
    def description(self) -> Description:
        """All of the segmenter but its weights."""
        return self._segmenter.description

    @property
    def runtime(self) -> str:
        """Library and number format."""
        words = "PyTorch compiled" if self._is_compiled else "PyTorch"
        return f"{words}, {'bf16' if self._is_bf16 else 'fp32'}{self._note}"

    @property
    def stride(self) -> int:
        """Grid that tiles start on."""
        return self._segmenter.stride

    @property
    def margin(self) -> int:
        """Context that a pixel needs, or 0."""
        return self._segmenter.margin

    @property
    def batch_size(self) -> int:
        """Tiles at a time."""
        return GPU_BATCH if self._segmenter.device.type == "cuda" else 1

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size."""
        images = np.ascontiguousarray(images, input_dtype(self.description.dtype))
        device = self._segmenter.device
        # Freezing needs no_grad; inference mode would hide the weights from it.
        guard = torch.no_grad() if self._is_compiled else torch.inference_mode()
        with guard, torch.autocast(device.type, torch.bfloat16, enabled=self._is_bf16):
            mask, logits = self._graph(torch.from_numpy(images).to(device))
        return Scores(mask.cpu().numpy(), logits.cpu().numpy() if with_logits else None)
