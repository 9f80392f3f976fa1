"""The layers of a network in ONNX: found in what NNCF made, put back into floating point, switched one by one."""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from segwright.compression.layers import SWITCHES, GraphLayer, Runner, walk
from segwright.inference.graph import INPUT, OUTPUTS

WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
MOVES_ONLY = {
    *("Concat", "Split", "Gather", "GatherND", "GatherElements", "Slice", "Pad", "Expand", "Tile", "Identity"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth"),
    *("MaxPool", "GlobalMaxPool", "ReduceMax"),
}
"""Operations that give some of the numbers that they take: a quantizer before them counts for what comes after."""
SCALES = {"BatchNormalization", "Mul", "Div", "Sub"}
"""With a constant, a normalization that no convolution takes in: factors differ by channel, and int8 saves no time."""
ROUNDS = {"QuantizeLinear", "DequantizeLinear"}
EXACT = "/exact"
"""What the name of a value that was not rounded ends with."""

Join = Callable[[NodeProto, NodeProto], list[NodeProto]]
"""Gives the nodes that compute the output of a layer from what it is in int8 and in floating point."""


class ONNXGraph:
    """A network in ONNX; see `Graph`.

    Args:
        model: In floating point. Nodes of one name, or of none, get different ones.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.made = model, model
        names: set[str] = set()
        for number, node in enumerate(model.graph.node):
            if not node.name or node.name in names:
                node.name = f"{node.name or node.op_type}/{number}"
            names.add(node.name)
        self._nodes = {node.name: node for node in model.graph.node}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = _makers(model)
        self.kept = self._find_kept()
        self.layers: tuple[GraphLayer, ...] = ()
        self.quantized: frozenset[str] = frozenset()

    def take(self, model: onnx.ModelProto) -> None:
        """Take what NNCF made of `model`."""
        self.made, self._made_by, self._carriers = model, _makers(model), set[str]()
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" or (node.op_type in MOVES_ONLY and self._takes_rounded(node)):
                self._carriers.add(node.name)
        self.quantized = frozenset(
            node.name
            for node in model.graph.node
            if node.op_type not in MOVES_ONLY | ROUNDS | {"Shape"}
            and len(node.output) == 1
            and node.name in self._nodes
            and self._takes_rounded(node)
        )
        nodes = self.model.graph.node
        self.layers = tuple(
            self._describe(node) for node in nodes if node.name in self.quantized or self._has_weights(node)
        )

    def assemble(self, is_int8: Collection[str]) -> onnx.ModelProto:
        """The network with some of the quantized layers in int8 and all others in floating point."""

        def join(int8: NodeProto, exact: NodeProto) -> list[NodeProto]:
            return [int8 if int8.name in is_int8 else exact]

        return _round_after_concat(self._assemble(join))

    def assemble_switched(self, order: Sequence[str]) -> onnx.ModelProto:
        """The network with an additional input that says of each layer whether it is computed in int8."""
        places = [numpy_helper.from_array(np.array(place), f"{SWITCHES}/{place}") for place in range(len(order))]

        def join(int8: NodeProto, exact: NodeProto) -> list[NodeProto]:
            place, output = order.index(int8.name), exact.output[0]
            for node, ending in ((int8, "/int8"), (exact, EXACT)):
                node.name, node.output[0] = node.name + ending, output + ending
            switch = helper.make_node("Gather", [SWITCHES, places[place].name], [f"{SWITCHES}/{place}/one"])
            chosen = helper.make_node("Where", [switch.output[0], int8.output[0], exact.output[0]], [output])
            return [int8, exact, switch, chosen]

        model = self._assemble(join)
        model.graph.initializer.extend(places)
        model.graph.input.append(helper.make_tensor_value_info(SWITCHES, TensorProto.BOOL, [len(order)]))
        return model

    def open(self, model: onnx.ModelProto, *, exact: bool = True) -> Runner:
        """Make a model ready to run on the processor; what is not int8 is computed in float32 in any case."""
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])

        def run(image: np.ndarray, switches: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
            inputs = {INPUT: image[None]} if switches is None else {INPUT: image[None], SWITCHES: switches}
            mask, logits = session.run(list(OUTPUTS), inputs)
            return mask, logits

        return run

    def _has_weights(self, node: NodeProto) -> bool:
        return node.op_type in WEIGHTED and not self._constants.keys().isdisjoint(node.input)

    def _takes_rounded(self, node: NodeProto) -> bool:
        return any(name in self._made_by and self._made_by[name].name in self._carriers for name in node.input)

    def _find_kept(self) -> list[str]:
        """Goes to the layers with weights from both ends; asking for a size is no way."""
        takers: dict[str, list[str]] = {}
        for node in self.model.graph.node:
            for value in node.input:
                takers.setdefault(value, []).append(node.name)

        def is_way(name: str) -> bool:
            return not self._has_weights(self._nodes[name]) and self._nodes[name].op_type != "Shape"

        def after(values: Iterable[str]) -> list[str]:
            return [name for value in values for name in takers.get(value, []) if is_way(name)]

        def before(name: str) -> list[str]:
            return _names(self._makers, self._nodes[name].input) if is_way(name) else []

        found = walk(after([INPUT]), lambda name: after(self._nodes[name].output))
        found |= walk(_names(self._makers, OUTPUTS), before)
        nodes = self.model.graph.node
        return sorted(found | {node.name for node in nodes if _interpolates(node) or self._scales(node)})

    def _scales(self, node: NodeProto) -> bool:
        return node.op_type in SCALES and not self._constants.keys().isdisjoint(node.input)

    def _describe(self, node: NodeProto) -> GraphLayer:
        weights, follows = None, node
        if self._has_weights(node):
            weights = numpy_helper.to_array(
                next(self._constants[name] for name in node.input if name in self._constants)
            )
        while not self._has_weights(follows) and follows.input and follows.input[0] in self._makers:
            follows = self._makers[follows.input[0]]
        return GraphLayer(node.name, node.op_type, weights, follows.name if self._has_weights(follows) else None)

    def _assemble(self, join: Join) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.made)
        del model.graph.node[:], model.graph.value_info[:]
        added: set[str] = set()
        for made in self.made.graph.node:
            if made.name in self.quantized:
                exact = self._exact(made, model.graph, added)
                model.graph.node.extend(join(_copy(made), exact))
            else:
                model.graph.node.append(made)
        return _without_unused(model)

    def _exact(self, made: NodeProto, graph: onnx.GraphProto, added: set[str]) -> NodeProto:
        """A node with its own constants, on what was not yet rounded; what that needs goes into the graph.

        Args:
            made: The node in what NNCF made.
            graph: What is assembled.
            added: Names of the values that were added for this purpose.
        """
        node = _copy(made)
        for port, source in enumerate(self._nodes[made.name].input):
            if source in self._constants:
                node.input[port] = source + EXACT
                if source + EXACT not in added:
                    graph.initializer.append(self._constants[source])
                    graph.initializer[-1].name = source + EXACT
                    added.add(source + EXACT)
            else:
                node.input[port] = self._unrounded(made.input[port], graph, added)
        return node

    def _unrounded(self, value: str, graph: onnx.GraphProto, added: set[str]) -> str:
        maker = self._made_by.get(value)
        if maker is None or maker.name not in self._carriers:
            return value
        if maker.op_type == "DequantizeLinear":
            quantizer = self._made_by.get(maker.input[0])
            return value if quantizer is None else self._unrounded(quantizer.input[0], graph, added)
        if value + EXACT not in added:
            node = self._exact(maker, graph, added)
            node.name, node.output[:] = node.name + EXACT, [output + EXACT for output in maker.output]
            graph.node.append(node)
            added.update(node.output)
        return value + EXACT


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _makers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    return {value: node for node in model.graph.node for value in node.output}


def _names(makers: dict[str, NodeProto], values: Iterable[str]) -> list[str]:
    return [makers[value].name for value in values if value in makers]


def _contents(constants: dict[str, TensorProto], names: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(numpy_helper.to_array(constants[name]).tobytes() for name in names)


def _interpolates(node: NodeProto) -> bool:
    # The nearest pixel is a copy, which int8 makes faster; weighted means would be rounded once more.
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    return node.op_type == "Resize" and modes not in ([], [b"nearest"])


def _without_unused(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes and constants that nothing depends on; it is changed."""
    graph, makers = model.graph, _makers(model)
    used = walk([output.name for output in graph.output], lambda value: makers[value].input if value in makers else ())
    nodes = [node for node in graph.node if not used.isdisjoint(node.output)]
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    return model


def _round_after_concat(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a quantizer after each concatenation of values that lie on one grid; it is changed.

    ONNX Runtime computes a layer in int8 if a quantizer is right before it, but NNCF has them before the concatenation.
    """
    # U-Net ResNet-34, 512 x 512: 378 instead of 558 ms of processor time (float32: 849), and the same logits.
    graph, constants = model.graph, {tensor.name: tensor for tensor in model.graph.initializer}
    grids: dict[str, Sequence[str]] = {}  # names of the scale and of the zero of each value that is rounded
    again: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [again.get(value, value) for value in node.input]
        nodes.append(node)
        if node.op_type == "DequantizeLinear":
            grids[node.output[0]] = tuple(node.input[1:])
        found = [grids.get(value, ()) for value in node.input[: None if node.op_type == "Concat" else 1]]
        if node.op_type in MOVES_ONLY and len({_contents(constants, grid) for grid in found}) == 1:
            grids.update((output, found[0]) for output in node.output)
            if node.op_type == "Concat" and found[0]:
                output, levels, again[node.output[0]] = (
                    node.output[0],
                    f"{node.output[0]}/int8",
                    f"{node.output[0]}/again",
                )
                nodes.append(helper.make_node("QuantizeLinear", [output, *found[0]], [levels], f"{levels}/to"))
                nodes.append(
                    helper.make_node("DequantizeLinear", [levels, *found[0]], [again[output]], f"{levels}/from")
                )
                grids[again[output]] = found[0]
    del graph.node[:]
    graph.node.extend(nodes)
    return model
