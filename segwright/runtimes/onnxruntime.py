"""A segmenter on ONNX Runtime, on a processor or on a GPU. Nothing here loads PyTorch."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from jaxtyping import Shaped

from segwright.inference.description import Description
from segwright.inference.engine import Scores, input_dtype
from segwright.runtimes.folder import EngineRecord

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
GPU_BATCH = 4


class ONNXRuntimeEngine:
    """An engine from an ONNX file.

    Args:
        folder: Where the file is.
        record: Of the folder.
        description: Of the folder.
        device: "cpu", "cuda", or "auto", which takes a GPU if the installed build has it.

    Raises:
        ValueError: If the file is damaged, or a GPU is asked for and the installed build has none.
    """

    def __init__(self, folder: Path, record: EngineRecord, description: Description, *, device: str = "auto") -> None:
        self.description = description
        self.stride, self.margin = record.stride, record.margin
        self._precision = record.precision
        found = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
        providers = found[-1:] if device == "cpu" else found
        if device == "cuda" and providers[0] != _PROVIDERS[0]:
            raise ValueError("the device is cuda, but this build of ONNX Runtime has no GPU; install onnxruntime-gpu")
        self._is_gpu = providers[0] == _PROVIDERS[0]
        self.batch_size = GPU_BATCH if self._is_gpu else 1
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors; it warns of shapes that are free on purpose
        if threads := os.environ.get("OMP_NUM_THREADS"):  # as for PyTorch; it would take all cores of the machine
            settings.intra_op_num_threads = int(threads)
        try:
            self._session = onnxruntime.InferenceSession(folder / record.file, settings, providers=providers)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf as error:
            raise ValueError(f"{folder / record.file} is damaged ({error}); export it again") from None
        self._only_needed = onnxruntime.RunOptions()
        self._only_needed.only_execute_path_to_fetches = True

    @property
    def runtime(self) -> str:
        """Library and number format."""
        return f"ONNX Runtime{' on the GPU' if self._is_gpu else ''}, {self._precision}"

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size."""
        images = np.ascontiguousarray(images, input_dtype(self.description.dtype))
        names = ["mask", "logits"] if with_logits else ["mask"]
        return Scores(*self._session.run(names, {"image": images}, self._only_needed))
