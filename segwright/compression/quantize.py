"""INT8 post-training quantization: as many layers as the masks allow are computed in 8 bits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from segwright.compression.calibration import calibrate
from segwright.compression.layers import Graph, name_layers
from segwright.compression.search import LayerSearch
from segwright.inference.engine import input_dtype
from segwright.inference.segmenter import Segmenter

Image = Shaped[np.ndarray, "_ _ C"]
Target = Literal["openvino", "onnxruntime"]
Tell = Callable[[str], None]

MAX_CALIBRATION, MAX_CHECK = 100, 50
"""Images that are used at most; ranges hardly change beyond, and each trial takes all images of the check."""
HARM_IMAGES, HARM_SIDE = 2, 256
"""Images that the harm of each layer is measured on, and how much of their middle."""


@dataclass(frozen=True)
class LayerReport:
    """What became of a layer.

    Attributes:
        name: Path of its module in the network, such as "decoder.0.conv1.convolution". An operation without weights has
            that of the layer with weights whose output it takes first. If no module was found, the name in the graph.
        kind: What the library calls it.
        is_int8: Whether it is computed in int8.
        harm: Relative error of the logits if this layer alone is computed in int8: the root of the sum of the squares
            of the differences over that of the squares of the logits. It is measured on the middle of two calibration
            images, and None for layers that are never quantized.
    """

    name: str
    kind: str
    is_int8: bool
    harm: float | None


@dataclass(frozen=True)
class Quantized:
    """A network in int8.

    Attributes:
        model: An `openvino.Model` or `onnx.ModelProto` with the inputs and outputs of the one in floating point.
        layers: All layers with weights, and all other operations that were quantized, in the order of the computation.
        equal: Share of the pixels whose class is that of the network in float32, on the images of the check. What is
            not in int8 is computed as engines do on this machine.
    """

    model: Any
    layers: tuple[LayerReport, ...]
    equal: float


class Quantizer:
    """A segmenter with all that was found out about its layers, to be quantized for one tolerance or several.

    Ranges are taken from the calibration images (100 of them, evenly taken, if there are more). Others (50 of them)
    tell how many pixels keep their class: those that are given for it, or else the last quarter of the calibration
    images, which then take no part in finding the ranges; of fewer than four all do both.

    Normalization and mirroring, the last layer and what follows it, and resizing by interpolation stay in floating
    point.

    Args:
        segmenter: In evaluation mode, on the CPU.
        images: Raw images of any sizes to calibrate on, like those that it is going to see.
        target: Library that is to run it.
        check: Raw images that tell how many pixels keep their class; best such that training has not seen.
        progress: Is called with each step in words.

    Raises:
        ValueError: If a library is missing, there are no images or of other channels, or nothing can be quantized.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        images: Sequence[Image],
        target: Target,
        *,
        check: Sequence[Image] = (),
        progress: Tell | None = None,
    ) -> None:
        tell = progress or (lambda _: None)
        if check:
            calibration, check = _evenly(images, MAX_CALIBRATION), _evenly(check, MAX_CHECK)
        else:
            calibration, check = _split(images)
        calibration, check = _prepare(segmenter, calibration), _prepare(segmenter, check)
        tell("converting the network")
        graph = _open_graph(segmenter, target)
        graph.take(calibrate(graph.model, calibration, graph.kept, tell))
        if not graph.quantized:
            raise ValueError(
                f"{segmenter.description.network} has no layer that can be in int8; export it in floating point instead"
            )
        names = name_layers(graph.layers, segmenter.network)
        self._layers = list(zip(graph.layers, names, strict=True))
        paths = {layer.node: name for layer, name in self._layers}
        self._harms = _measure_harms(
            graph, calibration[:HARM_IMAGES], lambda node: tell(f"measuring the harm of {paths[node]}")
        )
        self._search = LayerSearch(graph, self._harms, check, tell)

    def quantize(self, tolerance: float) -> Quantized:
        """The network with as many layers in int8 as the tolerance allows.

        Args:
            tolerance: Least share of pixels that keep their class.

        Raises:
            ValueError: If `tolerance` is no such share.
            TooManyChangesError: If too few pixels keep their class whatever is put back.
        """
        if not 0 < tolerance <= 1:
            raise ValueError(
                f"tolerance is {tolerance}, but a share of pixels above 0 and up to 1 is needed; 0.995 is usual"
            )
        is_int8, model, equal = self._search.find(tolerance)
        layers = (
            LayerReport(name, layer.kind, layer.node in is_int8, self._harms.get(layer.node))
            for layer, name in self._layers
        )
        return Quantized(model, tuple(layers), equal)


def _prepare(segmenter: Segmenter, images: Sequence[Image]) -> list[Image]:
    """The images in the type that the graph takes.

    Raises:
        ValueError: If there are none, or one has not the channels of the segmenter.
    """
    if not images:
        raise ValueError("there are no images, but some are needed to find the ranges of all values; give 20 to 400")
    channels = segmenter.description.in_channels
    for image in images:
        if image.ndim != 3 or image.shape[2] != channels:
            raise ValueError(
                f"an image has the shape {image.shape}, but (height, width, {channels}) is needed; give images like "
                "those that the segmenter was trained on"
            )
    dtype = input_dtype(segmenter.description.dtype)
    return [np.ascontiguousarray(image, dtype) for image in images]


def _split(images: Sequence[Image]) -> tuple[list[Image], list[Image]]:
    """What to calibrate on and what to check on."""
    if len(images) < 4:
        return list(images), list(images)
    start = len(images) - math.ceil(len(images) / 4)
    return _evenly(images[:start], MAX_CALIBRATION), _evenly(images[start:], MAX_CHECK)


def _evenly(images: Sequence[Image], count: int) -> list[Image]:
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)
    return [images[place] for place in places]


def _open_graph(segmenter: Segmenter, target: Target) -> Graph:
    """The network in the form of a library, which is loaded only now.

    Raises:
        ValueError: If a library is missing.
    """
    needs = {
        "openvino": (("nncf", "openvino"), "fast"),
        "onnxruntime": (("nncf", "onnxruntime", "onnx", "onnxscript"), "fast,export"),
    }
    if target not in needs:
        raise ValueError(f"the target is {target}, but only openvino and onnxruntime can be quantized for; choose one")
    packages, extra = needs[target]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ValueError(
            f'quantization for {target} needs {missing[0]}, but it is not installed; pip install "segwright[{extra}]"'
        )
    from segwright.runtimes.conversion import to_onnx, to_openvino  # noqa: PLC0415 - needs what is checked above

    if target == "openvino":
        from segwright.compression.openvino import OpenVINOGraph  # noqa: PLC0415 - loads OpenVINO

        return OpenVINOGraph(to_openvino(segmenter))
    from segwright.compression.onnx import ONNXGraph  # noqa: PLC0415 - loads ONNX Runtime

    return ONNXGraph(to_onnx(segmenter))


def _measure_harms(graph: Graph, images: Sequence[Image], tell: Tell) -> dict[str, float]:
    """Relative error of the logits for each layer that was quantized, if it alone is in int8."""
    order = [layer.node for layer in graph.layers if layer.node in graph.quantized]
    run = graph.open(graph.assemble_switched(order))
    middles = [_middle(image) for image in images]
    exact = [run(image, np.zeros(len(order), bool))[1].astype(np.float64) for image in middles]
    size = sum(float(np.square(logits).sum()) for logits in exact)
    harms = {}
    for node, switches in zip(order, np.eye(len(order), dtype=bool), strict=True):
        tell(node)
        pairs = zip(middles, exact, strict=True)
        error = sum(float(np.square(run(image, switches)[1] - logits).sum()) for image, logits in pairs)
        harms[node] = math.sqrt(error / size) if size else 0.0
    return harms


def _middle(image: Image) -> Image:
    top, left = (max(length - HARM_SIDE, 0) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + HARM_SIDE, left : left + HARM_SIDE])
