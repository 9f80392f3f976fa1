"""Trained weights of other libraries as a segmenter, by the `convert` of the network's file."""

import importlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segwright import parts
from segwright.data.colors import default_colors
from segwright.data.encoding import MaskEncoding
from segwright.inference.description import Description
from segwright.inference.segmenter import Segmenter
from segwright.types import Classes

CONTAINERS = ("state_dict", "model_state_dict", "model", "network", "weights")
"""Keys under which checkpoints keep the weights, besides the state of an optimizer and such."""

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that parallel training, compilation and training frameworks put before every name."""

_UNREADABLE = (
    OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, AttributeError, TypeError,
    ValueError,
)  # fmt: skip
"""What torch raises for files that are not its own: it starts to unpickle whatever comes."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Of red, green and blue from 0 to 255."""

IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of red, green and blue from 0 to 255."""


def import_network(file: Path, name: str, arguments: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any], int, int]:
    """A network of ours with the weights of a file of another library; nothing is executed from the file.

    Args:
        file: Weights as `.safetensors`, or a state dict or checkpoint saved by torch.
        name: Network or published variant that the weights are of.
        arguments: Arguments of the network, as in a recipe.

    Returns:
        The network in evaluation mode, its settings (name and all arguments), its input channels and its classes, both
        as the file has them; a single class, for a sigmoid, gets a background before it.

    Raises:
        ValueError: If the file cannot be read, no weights of others are known for the network, or they do not fit; the
            message names the first key that differs.
    """
    settings = parts.expand("network", {"name": name, **arguments})
    part = settings.pop("name")
    settings = parts.check_arguments("network", part, settings)
    if "weights" in settings:
        settings["weights"] = "none"
    module = importlib.import_module(parts.constructor("network", part).__module__)
    if not hasattr(module, "convert"):
        known = [other for other in parts.list_parts("network") if hasattr(_file(other), "convert")]
        raise ValueError(f"{part} knows no weights of other libraries; those that do are {', '.join(known)}")
    state = module.convert(read_state(file))
    in_channels, num_classes = _sizes(part, settings, state, file)
    if num_classes == 1:
        state, num_classes = _with_background(part, settings, in_channels, state), 2
    network: nn.Module = parts.build("network", part, settings, in_channels=in_channels, num_classes=num_classes)
    refuse_difference(network.state_dict(), state, f"{file} and {name}")
    network.load_state_dict(state)
    return network.eval(), {"name": part, **settings}, in_channels, num_classes


def import_segmenter(
    file: Path, name: str, arguments: Mapping[str, Any] | None = None, *, class_names: Sequence[str] = ()
) -> Segmenter:
    """A segmenter with the weights of a file of another library, ready to be saved, evaluated and used.

    Images of three channels are normalized with the means and deviations of ImageNet, as torchvision and
    segmentation_models_pytorch do; others with the middle and a quarter of the range of 8 bits.

    Args:
        file: As `import_network` has it.
        name: Network or published variant that the weights are of.
        arguments: Arguments of the network, as in a recipe.
        class_names: One name a class; numbered if empty. Where the file has a single class, its name is enough.

    Raises:
        ValueError: As `import_network` does, or if the number of names is not that of the classes.
    """
    network, settings, in_channels, num_classes = import_network(file, name, arguments or {})
    if len(class_names) == 1 and num_classes == 2:
        class_names = ("background", *class_names)
    names = tuple(class_names) or tuple(f"class {index}" for index in range(num_classes))
    if len(names) != num_classes:
        raise ValueError(f"{len(names)} class names came, but {file} has {num_classes} classes; give one name a class")
    is_color = in_channels == len(IMAGENET_MEAN)
    description = Description(
        network=settings.pop("name"),
        arguments=settings,
        classes=Classes(names, default_colors(num_classes)),
        encoding=MaskEncoding("index", tuple(range(num_classes))),
        in_channels=in_channels,
        dtype="uint8",
        mean=IMAGENET_MEAN if is_color else (127.5,) * in_channels,
        std=IMAGENET_STD if is_color else (63.75,) * in_channels,
    )
    return Segmenter(network, description).eval()


def read_state(file: Path) -> dict[str, Tensor]:
    """Weights by name from a file, without what checkpoints and wrappers put around them.

    Raises:
        ValueError: If the file cannot be read or holds no weights.
    """
    try:
        is_safe = file.suffix == ".safetensors"
        found = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else "it is empty"
        raise ValueError(
            f"{file} cannot be read as weights ({reason}); give a .safetensors file or a state dict saved by torch.save"
        ) from None
    for key in CONTAINERS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not any(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{file} holds no weights by name; save network.state_dict()")
    state = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    while wrappers := [prefix for prefix in WRAPPERS if all(name.startswith(prefix) for name in state)]:
        state = {name.removeprefix(wrappers[0]): value for name, value in state.items()}
    return state


def refuse_difference(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights whose names or shapes are not those of the network.

    Raises:
        ValueError: With the first key that differs.
    """
    for key, value in wanted.items():
        if key not in given:
            raise ValueError(
                f"{what} differ first in '{key}', which the file lacks; give the network it was trained as"
            )
        if value.shape != given[key].shape:
            shapes = " but ".join(" x ".join(map(str, tensor.shape)) for tensor in (given[key], value))
            raise ValueError(
                f"{what} differ first in '{key}', which is {shapes.replace('but', 'in the file but')} in the network; "
                "give the network it was trained as"
            )
    for key in given:
        if key not in wanted:
            raise ValueError(
                f"{what} differ first in '{key}', which the network lacks; give the network it was trained as"
            )


def _with_background(
    part: str, settings: dict[str, Any], in_channels: int, state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights of two classes from those of one: the softmax over (0, x) is the sigmoid of x."""
    one, two = _shapes(part, settings, in_channels, 1), _shapes(part, settings, in_channels, 2)
    wider = {key for key in one if one[key] != two[key]}
    return {key: torch.cat([torch.zeros_like(value), value]) if key in wider else value for key, value in state.items()}


def _sizes(part: str, settings: dict[str, Any], state: Mapping[str, Tensor], file: Path) -> tuple[int, int]:
    """Input channels and classes, told from the weights whose shapes depend on them."""
    reference = _shapes(part, settings, 3, 5)
    wider, more = _shapes(part, settings, 4, 5), _shapes(part, settings, 3, 6)
    in_channels = next(
        (state[key].shape[1] for key in reference if key in state and reference[key] != wider[key]), None
    )
    num_classes = next((state[key].shape[0] for key in reference if key in state and reference[key] != more[key]), None)
    if in_channels is None or num_classes is None:
        missing = next(key for key in reference if key not in state)
        raise ValueError(
            f"{file} and {part} differ first in '{missing}', which the file lacks; give the network it was trained as"
        )
    return in_channels, num_classes


def _shapes(part: str, settings: dict[str, Any], in_channels: int, num_classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = parts.build("network", part, settings, in_channels=in_channels, num_classes=num_classes)
    return {key: value.shape for key, value in network.state_dict().items()}


def _file(part: str) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module(parts.constructor("network", part).__module__)
