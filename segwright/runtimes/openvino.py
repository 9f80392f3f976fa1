"""A segmenter on OpenVINO: the fastest way on a processor. Nothing here loads PyTorch."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from jaxtyping import Shaped

from segwright.inference.description import Description
from segwright.inference.engine import Scores, input_dtype
from segwright.runtimes.folder import RECORD, EngineRecord
from segwright.runtimes.reuse import ReusedMemory

OFTEN = 8
"""Images of one size in a row after which the network is compiled for it: half a second that makes the rest 1 % (U-Net
ResNet-34, 512 x 512) to 5 % faster (DDRNet, 1024 x 1024) and changes no class."""

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""What OpenVINO calls the number formats."""


class OpenVINOEngine:
    """An engine from a model file.

    Args:
        folder: Where the file is; what compiling found out is kept there too, in `compiled/`, if it can be written.
        record: Of the folder.
        description: Of the folder.
        precision: "bf16" or "fp32"; "auto" is what the file was made for; "fastest" is bf16 where the processor has it
            in hardware. Of an int8 file, what the other layers compute in.
    """

    batch_size = 1

    def __init__(
        self, folder: Path, record: EngineRecord, description: Description, *, precision: str = "auto"
    ) -> None:
        self.description = description
        self.stride, self.margin = record.stride, record.margin
        self._core = openvino.Core()
        self._folder, self._record = folder, record
        self._computes = _choose_precision(self._core, precision, record.precision)
        self._free: dict[bool, openvino.InferRequest] = {}  # of any size, by whether they give logits
        self._fixed: tuple[tuple[tuple[int, ...], bool], openvino.InferRequest] | None = None
        self._last: tuple[tuple[int, ...], bool] | None = None
        self._uses = 0
        self._memory = ReusedMemory()

    @property
    def runtime(self) -> str:
        """Library and number format."""
        return f"OpenVINO, {'int8' if self._record.precision == 'int8' else self._computes}"

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size."""
        images = np.ascontiguousarray(images, input_dtype(self.description.dtype))
        batch, height, width, _ = images.shape
        found: dict[str, np.ndarray] = {"mask": np.empty((batch, height, width), np.uint8)}
        if with_logits:
            found["logits"] = self._memory.array((batch, len(self.description.classes), height, width))
        request = self._request(images.shape, with_logits)
        for name, array in found.items():  # it writes there, without a copy
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        request.infer([images], share_inputs=True, share_outputs=True)
        return Scores(found["mask"], found.get("logits"))

    def _request(self, shape: tuple[int, ...], with_logits: bool) -> openvino.InferRequest:
        """The network for a size: one for all sizes, or, once a size has come often, one for it alone."""
        wanted = shape, with_logits
        self._uses = self._uses + 1 if wanted == self._last else 1
        self._last = wanted
        if self._fixed is not None and self._fixed[0] == wanted:
            return self._fixed[1]
        if self._uses > OFTEN:
            self._fixed = wanted, self._compile(with_logits, shape)
            return self._fixed[1]
        if with_logits not in self._free:
            self._free[with_logits] = self._compile(with_logits)
        return self._free[with_logits]

    def _read(self) -> openvino.Model:
        try:
            return self._core.read_model(self._folder / self._record.file)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self._folder / self._record.file} cannot be read ({reason}); export it again") from None

    def _compile(self, with_logits: bool, shape: tuple[int, ...] | None = None) -> openvino.InferRequest:
        model = self._read()
        if not with_logits:
            model.remove_result(model.output("logits").node)
        if shape is not None:
            model.reshape({"image": list(shape)})
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[self._computes], "PERFORMANCE_HINT": "LATENCY"}
        if threads := os.environ.get("OMP_NUM_THREADS"):  # as for PyTorch; it would take all cores of the machine
            settings |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        cache = self._folder / "compiled"
        # A folder without a record is still being made.
        if (self._folder / RECORD).is_file() and (cache.is_dir() or _can_make(cache)):
            # The weights are in the file already, and reading them from there is as quick.
            settings |= {"CACHE_DIR": str(cache), "CACHE_MODE": "OPTIMIZE_SIZE"}
        return self._core.compile_model(model, "CPU", settings).create_infer_request()


def _choose_precision(core: openvino.Core, wanted: str, made_for: str) -> str:
    if wanted in HINTS:
        return wanted
    if wanted == "auto" and made_for in HINTS:
        return made_for
    return fastest_precision(core)


def fastest_precision(core: openvino.Core) -> str:
    """The fastest number format of the processor beside int8: bf16 if it has that in hardware."""
    return "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _can_make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except OSError:
        return False
    return True
