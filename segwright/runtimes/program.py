"""A segmenter that was exported for PyTorch: a traced program, without the code of the network."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Shaped

from segwright.inference.description import Description
from segwright.inference.engine import Scores, input_dtype
from segwright.layers.hardware import choose_device, uses_bf16
from segwright.runtimes.folder import EngineRecord
from segwright.runtimes.torch import GPU_BATCH


class ProgramEngine:
    """An engine from a file of `torch.export`.

    Args:
        folder: Where the file is.
        record: Of the folder.
        description: Of the folder.
        precision: "bf16", "fp32", or "auto": what the file was made for, where the device has it in hardware.
        device: "cpu", "cuda", or "auto", which takes a GPU if there is one.

    Raises:
        ValueError: If the file is damaged, or the GPU that is asked for is absent.
    """

    def __init__(
        self, folder: Path, record: EngineRecord, description: Description, *, precision: str, device: str
    ) -> None:
        self.description = description
        self.stride, self.margin = record.stride, record.margin
        self._device = choose_device(device)
        wanted = ("auto" if record.precision == "bf16" else "fp32") if precision == "auto" else precision
        self._is_bf16 = uses_bf16(wanted, self._device)
        self.batch_size = GPU_BATCH if self._device.type == "cuda" else 1
        try:
            program = torch.export.load(folder / record.file)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder / record.file} is damaged ({reason}); export it again") from None
        self._graph = _without_checks(program).to(self._device).to(memory_format=torch.channels_last)

    @property
    def runtime(self) -> str:
        """Library and number format."""
        return f"PyTorch program, {'bf16' if self._is_bf16 else 'fp32'}"

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size."""
        images = np.ascontiguousarray(images, input_dtype(self.description.dtype))
        guard = torch.autocast(self._device.type, torch.bfloat16, enabled=self._is_bf16)
        with torch.inference_mode(), guard:
            mask, logits = self._graph(torch.from_numpy(images).to(self._device))
        return Scores(mask.cpu().numpy(), logits.cpu().numpy() if with_logits else None)


def _without_checks(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program for any size: its checks ask for two images and for maps of two pixels, as the traced example had.

    A size of one is nothing special to the operations themselves, which OpenVINO and ONNX Runtime run from the same
    program, and the proof of an export holds its masks against those of the segmenter.
    """
    graph: torch.nn.Module = program.module(check_guards=False)
    graph._forward_pre_hooks.clear()  # there is no public way to leave the check of ranges out
    return graph
