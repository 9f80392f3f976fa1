"""A segmenter on TensorRT: an NVIDIA GPU at its fastest. The file is for the GPU model and version that made it."""

import math
from pathlib import Path

import numpy as np
import tensorrt
import torch
from jaxtyping import Shaped

from segwright.inference.description import Description, Tiling
from segwright.inference.engine import Scores, input_dtype
from segwright.runtimes.folder import EngineRecord

MAX_BATCH = 4
WORKSPACE_BYTES = 4 * 2**30


def build_plan(onnx_file: Path, tiling: Tiling, in_channels: int, precision: str) -> bytes:
    """Compile an ONNX file of a segmenter for the GPU of this machine.

    Args:
        onnx_file: As `runtimes.conversion.to_onnx` has it.
        tiling: Sizes up to the largest that is predicted in one piece are possible.
        in_channels: Channels of an image.
        precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: If TensorRT cannot take the network.
    """
    log = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(log)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(onnx_file.read_bytes()):
        raise ValueError(f"TensorRT cannot take this network ({parser.get_error(0)}); export it with --to onnx")
    settings = builder.create_builder_config()
    settings.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    flags = {"fp16": tensorrt.BuilderFlag.FP16, "bf16": tensorrt.BuilderFlag.BF16}
    if precision in flags:
        settings.set_flag(flags[precision])
    profile = builder.create_optimization_profile()
    largest = max(tiling.tile, math.isqrt(tiling.whole_pixels))
    sizes = ((1, 1, 1), (1, tiling.tile, tiling.tile), (MAX_BATCH, largest, largest))
    profile.set_shape("image", *((*size, in_channels) for size in sizes))
    settings.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, settings)
    if plan is None:
        raise ValueError("TensorRT could not build this network; its log above says why, or export it with --to onnx")
    return bytes(plan)


class TensorRTEngine:
    """An engine from a plan.

    Args:
        folder: Where the file is.
        record: Of the folder.
        description: Of the folder.

    Raises:
        ValueError: If there is no GPU, or the plan is of another GPU or version.
    """

    batch_size = MAX_BATCH

    def __init__(self, folder: Path, record: EngineRecord, description: Description) -> None:
        if not torch.cuda.is_available():
            raise ValueError("TensorRT needs an NVIDIA GPU, but torch sees none; use an export for another runtime")
        self.description = description
        self.stride, self.margin = record.stride, record.margin
        self.runtime = f"TensorRT, {record.precision}"
        loaded = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(
            (folder / record.file).read_bytes()
        )
        if loaded is None:
            raise ValueError(f"{folder / record.file} is of another GPU or version of TensorRT; export it again here")
        self._engine, self._context = loaded, loaded.create_execution_context()

    def __call__(self, images: Shaped[np.ndarray, "B H W C"], /, *, with_logits: bool) -> Scores:
        """Segment a batch of raw images of one size."""
        images = np.ascontiguousarray(images, input_dtype(self.description.dtype))
        batch, height, width, _ = images.shape
        tensors = {
            "image": torch.from_numpy(images).cuda(),
            "mask": torch.empty(batch, height, width, dtype=torch.uint8, device="cuda"),
            "logits": torch.empty(batch, len(self.description.classes), height, width, device="cuda"),
        }
        self._context.set_input_shape("image", images.shape)
        for name, tensor in tensors.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"TensorRT failed on images of {height} x {width}; use --runtime torch")
        stream.synchronize()
        logits = tensors["logits"].cpu().numpy() if with_logits else None
        return Scores(tensors["mask"].cpu().numpy(), logits)
