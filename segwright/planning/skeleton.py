"""A recipe's network without memory for its weights: enough to look at its layers and to follow its shapes."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from segwright import parts


def make_skeleton(network: Mapping[str, Any], in_channels: int, num_classes: int) -> nn.Module:
    """The network on torch's meta device.

    Args:
        network: Name and arguments, as a recipe has them; trained weights are left aside.
        in_channels: Channels of the images.
        num_classes: Classes of the masks.

    Raises:
        ValueError: If the network does not take images.
    """
    arguments = {key: value for key, value in network.items() if key != "name"}
    make = parts.constructor("network", network["name"])
    if "weights" in inspect.signature(make).parameters:
        arguments["weights"] = "none"
    with torch.device("meta"):
        built: nn.Module = make(in_channels, num_classes, **arguments)
    takes = getattr(built, "takes", "image")
    if takes != "image":
        raise ValueError(f"network {network['name']} takes a {takes}, but the data set holds images; take another")
    return built
