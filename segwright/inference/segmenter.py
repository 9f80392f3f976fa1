"""The one artefact: a network with all that is needed to use it, as a folder without pickle."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError
from torch import Tensor, nn

from segwright import parts
from segwright.files import write_whole
from segwright.inference.description import DESCRIPTION, WEIGHTS, Description, find_segmenter, read_description
from segwright.inference.ensemble import ENSEMBLE, Ensemble
from segwright.layers.normalization import Normalization
from segwright.types import Classes


class Segmenter(nn.Module):
    """A network together with its normalization, classes and way of tiling.

    Args:
        network: Maps normalized images to logits.
        description: Everything else.
    """

    def __init__(self, network: nn.Module, description: Description) -> None:
        super().__init__()
        self.normalization = Normalization(description.mean, description.std)
        self.network = network
        self.description = description

    @property
    def classes(self) -> Classes:
        """Names and colors of the classes."""
        return self.description.classes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.normalization.mean.device

    @property
    def auxiliary_weight(self) -> float:
        """Weight of the loss of each auxiliary output, as the network's paper has it; 0.4 where it says nothing."""
        return float(getattr(self.network, "auxiliary_weight", 0.4))

    @property
    def stride(self) -> int:
        """Sides of the network's input must be multiples of this; `predict` pads."""
        return int(getattr(self.network, "stride", 1))

    @property
    def margin(self) -> int:
        """Pixels from a border beyond which logits do not depend on what lies outside; 0 if that is not known."""
        # A pixel looks further on the one side than on the other, by what the pooling grid needs.
        return -(-int(getattr(self.network, "margin", 0)) // self.stride) * self.stride

    def forward(self, image: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """Logits of raw images whose sides are multiples of `stride`."""
        logits: Tensor = self.network(self.normalization(image))
        return logits

    def forward_all(self, image: Shaped[Tensor, "B C H W"]) -> list[Float[Tensor, "B K _ _"]]:
        """The main logits and those of auxiliary outputs, if the network has any."""
        normalized = self.normalization(image)
        if hasattr(self.network, "forward_all"):
            outputs: list[Tensor] = self.network.forward_all(normalized)  # type: ignore[operator]
            return outputs
        return [self.network(normalized)]

    def forward_with_terms(
        self, image: Shaped[Tensor, "B C H W"], mask: Int[Tensor, "B H W"], ignore_label: int
    ) -> tuple[list[Float[Tensor, "B K _ _"]], dict[str, Float[Tensor, ""]]]:
        """All outputs as `forward_all` has them, and the terms that the network's paper adds to the loss, by name."""
        if hasattr(self.network, "forward_with_terms"):
            found: tuple[list[Tensor], dict[str, Tensor]] = self.network.forward_with_terms(  # type: ignore[operator]
                self.normalization(image), mask, ignore_label
            )
            return found
        return self.forward_all(image), {}

    def save(self, folder: Path) -> None:
        """Write the folder; each file is replaced whole."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        write_whole(folder / WEIGHTS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
        write_whole(folder / DESCRIPTION, json.dumps(self.description.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Segmenter":
        """Read a segmenter, without its training data and without running code from the folder.

        Args:
            folder: A segmenter's folder or the folder of a run that holds one.

        Raises:
            ValueError: If the folder holds no segmenter, or its weights do not fit its description.
        """
        folder = find_segmenter(folder)
        description = read_description(folder)
        try:
            tensors = safetensors.torch.load_file(folder / WEIGHTS)
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{folder} is damaged ({error}); copy or train the segmenter again") from None
        segmenter = cls(build_network(description), description)
        try:
            segmenter.network.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder}: the weights do not fit {description.network} ({reason})") from None
        return segmenter.eval().to(memory_format=torch.channels_last)


def make_ensemble(segmenters: Sequence[Segmenter], scores: dict[str, Any]) -> Segmenter:
    """One segmenter that averages the probabilities of several.

    Args:
        segmenters: Segmenters of the same classes, channels and pixel type.
        scores: Scores to describe the whole by.
    """
    first = segmenters[0].description
    members = [segmenter.description.to_dict() for segmenter in segmenters]
    zeros, ones = (0.0,) * first.in_channels, (1.0,) * first.in_channels  # each member normalizes for itself
    whole = replace(first, network=ENSEMBLE, arguments={"members": members}, scores=scores, mean=zeros, std=ones)
    return Segmenter(Ensemble(segmenters), whole).eval()


def build_network(description: Description, *, weights: str = "none") -> nn.Module:
    """The network that a description names; its encoder starts from `weights` if it takes any."""
    if description.network == ENSEMBLE:
        members = [Description.from_dict(member) for member in description.arguments["members"]]
        return Ensemble([Segmenter(build_network(member), member) for member in members])
    arguments = dict(description.arguments)
    if "weights" in arguments:
        arguments["weights"] = weights
    network: nn.Module = parts.build(
        "network",
        description.network,
        arguments,
        in_channels=description.in_channels,
        num_classes=len(description.classes),
    )
    return network
