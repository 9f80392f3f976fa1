"""What the graphs of OpenVINO and ONNX have in common: layers, what they are called, and where they are computed."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import nn

SWITCHES = "is_int8"
"""Name of the additional input that says which layers are computed in int8."""


@dataclass(frozen=True)
class GraphLayer:
    """An operation that can be computed in int8.

    Attributes:
        node: Its name in the graph.
        kind: What the library calls it.
        weights: Its weights in floating point, if it has some.
        follows: The operation with weights whose output it takes first, itself if it has some; None if there is none.
    """

    node: str
    kind: str
    weights: Float[np.ndarray, "*S"] | None
    follows: str | None


class Runner(Protocol):
    """A graph that is ready to run."""

    def __call__(
        self, image: Shaped[np.ndarray, "H W C"], switches: Bool[np.ndarray, "L"] | None = None, /
    ) -> tuple[UInt8[np.ndarray, "1 H W"], Float32[np.ndarray, "1 K H W"]]:
        """Classes and logits of an image; a graph with switches needs to be told which layers are in int8."""


class Graph(Protocol):
    """A network in the form of one library, before and after NNCF has quantized it.

    Attributes:
        model: In floating point, as the library has it.
        made: What NNCF made of it; known after `take`.
        kept: Names of the operations that are never quantized: what is before the first and after the last layer with
            weights, that layer, and resizing by interpolation.
        layers: All that could be quantized and has weights, and all else that was quantized; known after `take`.
        quantized: Names of those layers that were quantized.
    """

    model: Any
    made: Any
    kept: list[str]
    layers: tuple[GraphLayer, ...]
    quantized: frozenset[str]

    def take(self, model: Any) -> None:  # noqa: ANN401 - each library has its own type
        """Take what NNCF made of `model`."""

    def assemble(self, is_int8: Collection[str]) -> Any:  # noqa: ANN401
        """The network with some of the quantized layers in int8 and all others in floating point."""

    def assemble_switched(self, order: Sequence[str]) -> Any:  # noqa: ANN401
        """The network with an additional input that says of each layer whether it is computed in int8."""

    def open(self, model: Any, *, exact: bool = True) -> Runner:  # noqa: ANN401
        """Make a model ready to run on the processor.

        Args:
            model: A model of the library.
            exact: Compute what is not in int8 in float32; else as engines do on this machine.
        """


def name_layers(layers: Sequence[GraphLayer], network: nn.Module) -> list[str]:
    """The path of the module of each layer, such as "decoder.0.conv1.convolution", found by its weights.

    A layer without weights is called as the one that it follows. What no module is found for keeps the name that it has
    in the graph.

    Args:
        layers: In any order.
        network: Where the weights come from.
    """
    known = {layer.node: _module_of(layer.weights, network) for layer in layers if layer.weights is not None}
    return [known.get(layer.follows or "") or layer.node.split("/")[0] for layer in layers]


def _module_of(weights: Float[np.ndarray, "*S"], network: nn.Module) -> str | None:
    """Path of the module whose weights are these, up to a factor for each output channel that comes from its norm."""
    for path, parameter in network.named_parameters():
        if parameter.numel() != weights.size or parameter.ndim < 2:
            continue
        values = parameter.detach().cpu().double().numpy()
        for given in (weights, weights.T) if weights.ndim == 2 else (weights,):
            pair = values, given.reshape(values.shape)
            # Output channels are the first axis, but the second one of transposed convolutions.
            if any(_is_proportional(*(np.moveaxis(one, axis, 0) for one in pair)) for axis in (0, 1)):
                return path.rpartition(".")[0] or path
    return None


def _is_proportional(a: Float[np.ndarray, "N *S"], b: Float[np.ndarray, "N *S"]) -> bool:
    a, b = (one.reshape(len(one), -1) for one in (a, b))
    products, squares = (a * b).sum(1), (a * a).sum(1) * (b * b).sum(1)
    return bool(squares.any() and np.abs(products).sum() > 0.9999 * np.sqrt(squares).sum())


def walk(start: Collection[str], beside: Callable[[str], Collection[str]]) -> set[str]:
    """All that is reached from `start` by going from each node to those that `beside` gives, `start` included."""
    reached, waiting = set(start), list(start)
    while waiting:
        new = set(beside(waiting.pop())) - reached
        reached |= new
        waiting += new
    return reached
