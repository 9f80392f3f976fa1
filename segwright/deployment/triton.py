"""A model repository for Triton Inference Server around an ONNX file."""

from dataclasses import replace
from pathlib import Path

from segwright.files import write_whole
from segwright.inference.description import Description
from segwright.inference.engine import input_dtype
from segwright.runtimes.folder import EngineRecord

NAME = "segmenter"
"""Of the model in the repository."""

_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def arrange_repository(folder: Path, record: EngineRecord, description: Description) -> EngineRecord:
    """Move the ONNX file of a folder to where Triton looks for it, and write the model's configuration.

    Batches are made by the server from images of one size, up to 8 at a time. Source: the server's model repository
    and model configuration documentation, for its ONNX Runtime backend.

    Returns:
        The record with the file's new place.
    """
    place = folder / NAME / "1"
    place.mkdir(parents=True)
    (folder / record.file).rename(place / "model.onnx")
    write_whole(folder / NAME / "config.pbtxt", _configuration(description).encode())
    return replace(record, file=f"{NAME}/1/model.onnx")


def _configuration(description: Description) -> str:
    kind = _TYPES[input_dtype(description.dtype)]
    return f"""name: "{NAME}"
backend: "onnxruntime"
max_batch_size: 8
input [
  {{ name: "image", data_type: {kind}, dims: [ -1, -1, {description.in_channels} ] }}
]
output [
  {{ name: "mask", data_type: TYPE_UINT8, dims: [ -1, -1 ] }},
  {{ name: "logits", data_type: TYPE_FP32, dims: [ {len(description.classes)}, -1, -1 ] }}
]
dynamic_batching {{ }}
"""
