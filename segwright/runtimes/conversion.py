"""A segmenter as a model of OpenVINO or ONNX, from one traced graph, for any batch, height and width."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from segwright.inference.graph import INPUT, OUTPUTS, trace
from segwright.inference.segmenter import Segmenter

if TYPE_CHECKING:  # both take a while to load
    import onnx
    import openvino

FREE_AXES = ("batch", "height", "width")
"""Names of the axes of free length in ONNX, in their order in images, masks and logits."""

LARGEST = 2**20
"""Side of an image in pixels for which a graph has to hold; without a bound, it holds for all."""


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
        model = openvino.convert_model(_checked(segmenter, program))
    model.input(0).get_tensor().set_names({INPUT})
    model.reshape({INPUT: [-1, -1, -1, segmenter.description.in_channels]})
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
        exported = torch.onnx.export(_checked(segmenter, program), dynamo=True, verbose=False, **names)
    assert exported is not None  # it is for the old exporter only
    model: onnx.ModelProto = exported.model_proto
    graph = model.graph
    # The exporter notes the shape of every intermediate map under the assumption that no side is 1. ONNX Runtime
    # believes it, plans its memory by it, and gives wrong logits for small images; it finds the shapes itself as well.
    graph.ClearField("value_info")
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # paths and lines of the source code on this machine
    for value in (*graph.input, *graph.output):
        free = (axis for axis in value.type.tensor_type.shape.dim if axis.HasField("dim_param"))
        for axis, name in zip(free, FREE_AXES, strict=True):
            axis.dim_param = name
    return model


def _refuse_missing(what: str, packages: Sequence[str], extra: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"a model for {what} needs {' and '.join(missing)}, which this machine lacks; run "
            f'pip install "segwright[{extra}]"'
        )


def _checked(segmenter: Segmenter, program: ExportedProgram | None) -> ExportedProgram:
    """The graph, if it holds for images of all sizes; what compares a size with a number makes it hold for some only."""
    program = program or trace(segmenter)
    for bounds in program.range_constraints.values():
        if bounds.upper < LARGEST:
            raise ValueError(
                f"the graph of {segmenter.description.network} holds for up to {bounds.upper} pixels a side only, but "
                "a model for all sizes is needed; predict with PyTorch instead"
            )
    return program


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporters say to their developers from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
