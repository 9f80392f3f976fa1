"""All about one network, from its file: sizes, stages, arguments, how it differs from its paper."""

import importlib
import inspect
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segwright import parts
from segwright.catalog.table import NUM_CLASSES, SIDE, Row
from segwright.types import Paper

VOLUME_SIDE = 64
"""Side of the volume that a network for volumes is shown with."""


@dataclass(frozen=True)
class Stage:
    """One part of a network in the order of its first call.

    Attributes:
        name: Attribute of the network.
        kind: Its class.
        shapes: What goes out for one image, without the batch.
        parameters: How many it has.
    """

    name: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int


@dataclass(frozen=True)
class Argument:
    """One argument that a recipe may give to a network."""

    name: str
    kind: str
    default: Any
    description: str


@dataclass(frozen=True)
class Card:
    """All about one network.

    Attributes:
        name: What a recipe calls it.
        title: What the field calls it.
        summary: What it is, in one line.
        paper: Where it comes from.
        differs: How it differs from the paper, one entry a point; empty if it does not.
        variants: Published configurations by the name that a recipe may use.
        arguments: What a recipe may set.
        input_shape: Shape of the image or volume that the stages are shown for.
        stages: The network's parts.
    """

    name: str
    title: str
    summary: str
    paper: Paper
    differs: tuple[str, ...]
    variants: dict[str, dict[str, Any]]
    arguments: tuple[Argument, ...]
    input_shape: tuple[int, ...]
    stages: tuple[Stage, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain values; an argument without a default has none there either."""
        values = asdict(self)
        for argument in values["arguments"]:
            if argument["default"] is inspect.Parameter.empty:
                del argument["default"]
        return values


def measure(name: str, miou: float | None = None) -> Row:
    """Count a network with its defaults; nothing is computed, the shapes alone are followed."""
    module = _module(name)
    network = _skeleton(name, {})
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(1, *_input_shape(network), device="meta"))
    return Row(
        name=name,
        title=module.NAME,
        paper=module.PAPER,
        takes=network.takes,  # type: ignore[arg-type]
        stride=network.stride,  # type: ignore[arg-type]
        parameters=_count(network),
        gmacs=round(counter.get_total_flops() / 2e9, 1),
        miou=miou,
    )


def read_card(name: str) -> Card:
    """All about the network or the published variant of a name.

    Raises:
        ValueError: If there is none of this name; the message names the nearest.
    """
    if "." in name:
        raise ValueError(f"'{name}' is code from outside; only the built-in networks have a card")
    settings = parts.expand("network", {"name": name})
    part = settings.pop("name")
    make = parts.constructor("network", part)
    module = _module(part)
    text = inspect.cleandoc(module.__doc__ or "")
    network = _skeleton(part, settings)
    return Card(
        name=name,
        title=module.NAME,
        summary=" ".join(text.split("\n\n")[0].split()),
        paper=module.PAPER,
        differs=_differs(text),
        variants={parts.variant_name(title): arguments for title, arguments in module.VARIANTS.items()},
        arguments=_arguments(make, settings),
        input_shape=_input_shape(network),
        stages=tuple(_stages(network)),
    )


def _module(name: str) -> Any:  # noqa: ANN401 - a module with NAME, PAPER, VARIANTS
    return importlib.import_module(f"{parts.FOLDERS['network']}.{name}")


def _skeleton(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The network without memory for its weights, in evaluation mode."""
    make = parts.constructor("network", name)
    if "weights" in inspect.signature(make).parameters:
        arguments = arguments | {"weights": "none"}
    with torch.device("meta"):
        network: nn.Module = make(3, NUM_CLASSES, **arguments)
    return network.eval()


def _input_shape(network: nn.Module) -> tuple[int, ...]:
    return (3, SIDE, SIDE) if network.takes == "image" else (3, VOLUME_SIDE, VOLUME_SIDE, VOLUME_SIDE)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _stages(network: nn.Module) -> list[Stage]:
    """Parts in the order of their first call; lists of parts are opened."""
    found: dict[str, Stage] = {}

    def note(name: str, module: nn.Module, output: object) -> None:
        tensors = [output] if isinstance(output, Tensor) else list(output)  # type: ignore[call-overload]
        shapes = tuple(tuple(tensor.shape[1:]) for tensor in tensors if isinstance(tensor, Tensor))
        found.setdefault(name, Stage(name, type(module).__name__, shapes, _count(module)))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in _named_parts(network)
    ]
    with torch.no_grad():
        network(torch.empty(1, *_input_shape(network), device="meta"))
    for hook in hooks:
        hook.remove()
    return list(found.values())


def _named_parts(network: nn.Module) -> list[tuple[str, nn.Module]]:
    named = []
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            named += [(f"{name}.{inner}", module) for inner, module in child.named_children()]
        else:
            named.append((name, child))
    return [(name, module) for name, module in named if _count(module)]


def _arguments(make: Any, given: dict[str, Any]) -> tuple[Argument, ...]:  # noqa: ANN401 - a class or a function
    descriptions = _described(inspect.getdoc(make) or "")
    return tuple(
        Argument(
            name=parameter.name,
            kind=inspect.formatannotation(parameter.annotation).replace("typing.", "").replace("collections.abc.", ""),
            default=given.get(parameter.name, parameter.default),
            description=descriptions.get(parameter.name, ""),
        )
        for parameter in inspect.signature(make).parameters.values()
        if parameter.name not in parts.FROM_DATA
    )


def _described(text: str) -> dict[str, str]:
    """What the `Args:` section of a docstring says of each argument."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.M | re.S)
    entries = re.split(r"^ {4}(?=\w+:)", section[1], flags=re.M)[1:] if section else []
    pairs = (entry.split(":", 1) for entry in entries)
    return {name: " ".join(description.split()) for name, description in pairs}


def _differs(text: str) -> tuple[str, ...]:
    """Points of the **Differs from the paper** list of a file's head."""
    section = text.partition("**Differs from the paper**")[2]
    points = re.split(r"^- ", section, flags=re.M)[1:]
    # A paragraph after the list belongs to the file, not to its last point.
    return tuple(" ".join(point.split("\n\n")[0].split()).rstrip(";.") for point in points)
