"""A segmenter as a model of OpenVINO or ONNX, from one traced graph, for any batch, height and width."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from segwright.inference.graph import INPUT, OUTPUTS, trace
from segwright.inference.segmenter import Segmenter

if TYPE_CHECKING:  # both take a while to load
    import onnx
    import openvino

AXES = {INPUT: ("batch", "height", "width", ""), "mask": ("batch", "height", "width"), "logits": ("batch", "", "height", "width")}
"""Names of the free axes in an ONNX file; the other axes are numbers."""


def to_openvino(segmenter: Segmenter, program: ExportedProgram | None = None) -> "openvino.Model":
    """The model of OpenVINO: raw pixels `image` (B H W C) in, `mask` (B H W) and `logits` (B K H W) out.

    It shares the weights with the segmenter.

    Args:
        segmenter: A segmenter in evaluation mode, on the CPU.
        program: What `trace` made of it, if it was called already.

    Raises:
        ValueError: If OpenVINO is not installed, or the graph of the network holds for some sizes only.
    """
    _refuse_missing("OpenVINO", ("openvino",), "fast")
    import openvino  # noqa: PLC0415 - takes a while to load

    with _silence():
        model = openvino.convert_model(_checked(program or trace(segmenter)))
    model.input(0).get_tensor().set_names({INPUT})
    for number, name in enumerate(OUTPUTS):
        model.output(number).get_tensor().set_names({name})
    return model


def to_onnx(segmenter: Segmenter, program: ExportedProgram | None = None) -> "onnx.ModelProto":
    """The model as ONNX: raw pixels `image` (B H W C) in, `mask` (B H W) and `logits` (B K H W) out.

    Args:
        segmenter: A segmenter in evaluation mode, on the CPU.
        program: What `trace` made of it, if it was called already.

    Raises:
        ValueError: If onnx or onnxscript is not installed, or the graph of the network holds for some sizes only.
    """
    _refuse_missing("ONNX", ("onnx", "onnxscript"), "export")
    names = {"input_names": [INPUT], "output_names": list(OUTPUTS)}
    with _silence(), torch.no_grad():
        exported = torch.onnx.export(_checked(program or trace(segmenter)), dynamo=True, verbose=False, **names)
    model = exported.model_proto
    graph = model.graph
    # The exporter notes the shape of every intermediate map under the assumption that no side is 1. ONNX Runtime
    # believes it, plans its memory by it, and gives wrong logits for small images; it finds the shapes itself as well.
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # paths and lines of the source code on this machine
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=True):
            if name:
                axis.dim_param = name
    return model
