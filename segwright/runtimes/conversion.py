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

if TYPE_CHECKING:  # both take a while to load, and may be missing
    import onnx
    import openvino

FREE_AXES = ("batch", "height", "width")
"""Names of the axes of free length in ONNX, in the order that images, masks and logits have them in."""


def to_openvino(segmenter: Segmenter, program: ExportedProgram | None = None) -> "openvino.Model":
    """The model of OpenVINO: raw pixels `image` (B H W C) in, `mask` (B H W) and `logits` (B K H W) out.

    It shares its weights with the segmenter.

    Args:
        segmenter: A segmenter in evaluation mode, on the CPU.
        program: What `trace` made of it, if it was called already.

    Raises:
        ValueError: If OpenVINO is not installed, or knows an operation of the network not.
    """
    _refuse_missing("OpenVINO", ["openvino"], "fast")
    # All four take a while to load. This is `openvino.convert_model`, step by step, but for what that one sends home:
    # names of the framework and of the options, from a process that takes a second or two to start.
    from openvino._offline_transformations import apply_moc_transformations  # noqa: PLC0415
    from openvino.frontend import FrontEndManager, OpConversionFailure  # noqa: PLC0415
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder  # noqa: PLC0415

    with _conversion(segmenter, "OpenVINO", (RuntimeError, OpConversionFailure)):
        frontend = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(program or trace(segmenter))
        model = frontend.convert(frontend.load(decoder))
        apply_moc_transformations(model, cf=False, smart_reshape=True)
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
        ValueError: If what the exporter needs is not installed, or it knows an operation of the network not.
    """
    _refuse_missing("ONNX", ["onnx", "onnxscript"], "export")
    with _conversion(segmenter, "ONNX", (RuntimeError,)), torch.no_grad():
        exported = torch.onnx.export(
            program or trace(segmenter),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=OUTPUTS,
        )
        assert exported is not None
        model: onnx.ModelProto = exported.model_proto
    graph = model.graph
    # The exporter writes down the size of every map under the assumption that no side is 1. ONNX Runtime plans its
    # memory by that, and gives wrong logits for small images without a word; it finds the sizes itself as well.
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        free = (axis for axis in value.type.tensor_type.shape.dim if axis.HasField("dim_param"))
        for axis, name in zip(free, FREE_AXES, strict=True):
            axis.dim_param = name
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # lines of the source code, with their paths on this machine
    return model


def _refuse_missing(form: str, packages: Sequence[str], extra: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"a model for {form} needs {' and '.join(missing)}, which this machine does not have; run "
            f'pip install "segwright[{extra}]"'
        )


@contextmanager
def _conversion(segmenter: Segmenter, form: str, failures: tuple[type[BaseException], ...]) -> Iterator[None]:
    """Keep from the user what exporters say to developers, and say in a sentence what they fail at."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except failures as error:
        reason = " ".join(str(error.__cause__ or error).split())[-200:]
        raise ValueError(
            f"{segmenter.description.network} cannot be converted for {form} (... {reason}); use --runtime torch"
        ) from error
    finally:
        logging.disable(disabled)
