"""The layers of a network in OpenVINO: found in what NNCF made, put back into floating point, switched one by one."""

from collections.abc import Callable, Collection, Sequence
from functools import cache

import numpy as np
import openvino
from openvino import opset13 as operations

from segwright.compression.layers import SWITCHES, GraphLayer, Runner, walk
from segwright.inference.graph import INPUT
from segwright.runtimes.openvino import HINTS, fastest_precision

WEIGHTED = {
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"),
}
MOVES_ONLY = {
    *("Concat", "Split", "VariadicSplit", "Gather", "StridedSlice", "Slice", "Pad", "Broadcast", "Tile"),
    *("Reshape", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth", "ShuffleChannels"),
    *("MaxPool", "ReduceMax", "BatchToSpace", "SpaceToBatch"),
}
"""Operations that give some of the numbers that they take: a quantizer before them counts for what comes after."""
SCALES = {"Multiply", "Divide", "Subtract"}
"""With a constant, a normalization that no convolution takes in: factors differ by channel, and int8 saves no time."""

Join = Callable[[str, openvino.Output, openvino.Output], openvino.Output]
"""Chooses between what a layer gives in int8 and in floating point."""


class OpenVINOGraph:
    """A network in OpenVINO; see `Graph`.

    Args:
        model: In floating point. Operations of one name get different ones.
    """

    def __init__(self, model: openvino.Model) -> None:
        self.model, self.made = model, model
        names: set[str] = set()
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_friendly_name() in names:
                node.set_friendly_name(f"{node.get_friendly_name()}/{number}")
            names.add(node.get_friendly_name())
        self._nodes = _by_name(model)
        self._constants: set[str] = set()
        for name, node in self._nodes.items():
            sources = _sources(node)
            if node.get_type_name() == "Constant" or (sources and self._constants.issuperset(map(_name, sources))):
                self._constants.add(name)
        self.kept = self._find_kept()
        self.layers: tuple[GraphLayer, ...] = ()
        self.quantized: frozenset[str] = frozenset()

    def take(self, model: openvino.Model) -> None:
        """Take what NNCF made of `model`."""
        self.made, self._carriers = model, set[str]()
        for name, node in _by_name(model).items():
            kind = node.get_type_name()
            if kind == "FakeQuantize" or (
                kind in MOVES_ONLY and not self._carriers.isdisjoint(map(_name, _sources(node)))
            ):
                self._carriers.add(name)
        nodes = _by_name(model)
        self.quantized = frozenset(name for name in nodes if name in self._nodes and self._is_quantized(nodes[name]))
        names = [name for name in self._nodes if name in self.quantized or self._has_weights(name)]
        self.layers = tuple(map(self._describe, names))

    def assemble(self, is_int8: Collection[str]) -> openvino.Model:
        """The network with some of the quantized layers in int8 and all others in floating point."""
        return self._assemble(lambda name, int8, exact: int8 if name in is_int8 else exact, ())

    def assemble_switched(self, order: Sequence[str]) -> openvino.Model:
        """The network with an additional input that says of each layer whether it is computed in int8."""
        switches = operations.parameter([len(order)], bool, name=SWITCHES)
        switches.output(0).set_names({SWITCHES})
        zero = operations.constant(0, np.int64)

        def join(name: str, int8: openvino.Output, exact: openvino.Output) -> openvino.Output:
            switch = operations.gather(switches, operations.constant(order.index(name), np.int64), zero)
            return operations.select(switch, int8, exact).output(0)

        return self._assemble(join, (switches,))

    def open(self, model: openvino.Model, *, exact: bool = True) -> Runner:
        """Make a model ready to run; what is not int8 is computed in float32, or in bfloat16 where it is fast."""
        core = openvino.Core()
        hint = HINTS["fp32" if exact else fastest_precision(core)]
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(model, "CPU", settings).create_infer_request()

        def run(image: np.ndarray, switches: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
            inputs = {INPUT: image[None]} if switches is None else {INPUT: image[None], SWITCHES: switches}
            found = request.infer(inputs)
            return found["mask"], found["logits"]

        return run

    def _has_weights(self, name: str) -> bool:
        node = self._nodes[name]
        return node.get_type_name() in WEIGHTED and any(_name(source) in self._constants for source in _sources(node))

    def _find_kept(self) -> list[str]:
        """Goes to the layers with weights from both ends; asking for a size is no way."""
        nodes = self._nodes

        def is_way(name: str) -> bool:
            return not self._has_weights(name) and nodes[name].get_type_name() != "ShapeOf"

        def after(name: str) -> list[str]:
            ends = (end.get_node() for output in nodes[name].outputs() for end in output.get_target_inputs())
            return [end for end in map(_name, ends) if is_way(end)]

        def before(name: str) -> list[str]:
            return list(map(_name, _sources(nodes[name]))) if is_way(name) else []

        found = walk(list(map(_name, self.model.get_parameters())), after)
        found |= walk(list(map(_name, self.model.get_results())), before)
        found |= {name for name, node in nodes.items() if _interpolates(node) or self._scales(node)}
        return sorted(found - self._constants)

    def _scales(self, node: openvino.Node) -> bool:
        return node.get_type_name() in SCALES and not self._constants.isdisjoint(map(_name, _sources(node)))

    def _is_quantized(self, node: openvino.Node) -> bool:
        """Whether an operation of what NNCF made, which the network has too, computes with int8."""
        if node.get_type_name() in MOVES_ONLY | {"Constant", "Result", "ShapeOf"} or node.get_output_size() != 1:
            return False
        return any(
            _name(source) in self._carriers
            or (source.get_type_name() != "Constant" and _name(source) not in self._nodes)
            for source in _sources(node)
        )

    def _describe(self, name: str) -> GraphLayer:
        node, weights, follows = self._nodes[name], None, name
        if self._has_weights(name):
            constants = [source for source in _sources(node) if _name(source) in self._constants]
            weights = constants[0].get_data() if constants[0].get_type_name() == "Constant" else None
        while not self._has_weights(follows) and _sources(self._nodes[follows]):
            follows = _name(_sources(self._nodes[follows])[0])
        return GraphLayer(name, node.get_type_name(), weights, follows if self._has_weights(follows) else None)

    def _assemble(self, join: Join, inputs: Sequence[openvino.Node]) -> openvino.Model:
        model, float_model = self.made.clone(), self.model.clone()
        nodes, exact = _by_name(model), _by_name(float_model)

        @cache
        def bypass(name: str) -> openvino.Node:
            """An operation with its own constants, on what was not yet rounded."""
            for port, source in enumerate(_sources(exact[name])):
                if _name(source) not in self._constants:
                    exact[name].input(port).replace_source_output(unrounded(nodes[name].input_value(port)))
            return exact[name]

        def unrounded(value: openvino.Output) -> openvino.Output:
            node = value.get_node()
            if node.get_type_name() == "FakeQuantize":
                return unrounded(node.input_value(0))
            return bypass(_name(node)).output(value.get_index()) if _name(node) in self._carriers else value

        for name, node in nodes.items():
            if name in self.quantized:
                ends = node.output(0).get_target_inputs()
                joined = join(name, node.output(0), bypass(name).output(0))
                for end in ends:
                    end.replace_source_output(joined)
        return openvino.Model(model.get_results(), [*model.get_parameters(), *inputs], "segmenter")


def _name(node: openvino.Node) -> str:
    name: str = node.get_friendly_name()
    return name


def _by_name(model: openvino.Model) -> dict[str, openvino.Node]:
    """Operations by name, those that come first in the computation first."""
    return {_name(node): node for node in model.get_ordered_ops()}


def _sources(node: openvino.Node) -> list[openvino.Node]:
    return [value.get_node() for value in node.input_values()]


def _interpolates(node: openvino.Node) -> bool:
    # The nearest pixel is a copy, which int8 takes part in for free; weighted means would be rounded once more.
    return node.get_type_name() == "Interpolate" and bool(node.get_attributes()["mode"] != "nearest")
