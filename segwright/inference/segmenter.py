"""The one artefact: a network with all that is needed to use it, as a folder without pickle."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from torch import Tensor, nn

from segwright import parts
from segwright.data.encoding import MaskEncoding
from segwright.files import write_whole
from segwright.layers.normalization import Normalization
from segwright.types import Classes

WEIGHTS, DESCRIPTION = "model.safetensors", "segmenter.json"
FORMAT = 1


@dataclass(frozen=True)
class Tiling:
    """How images that are too large for one pass are cut.

    Attributes:
        whole_pixels: Images up to this many pixels go through the network in one piece.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighboring tiles share.
    """

    whole_pixels: int = 2048 * 1024
    tile: int = 1024
    overlap: int = 256


@dataclass(frozen=True)
class Description:
    """All of a segmenter but its weights; what `segmenter.json` holds.

    Attributes:
        network: Name of the network, as a recipe says it.
        arguments: Arguments of the network.
        classes: Names and colors of the classes.
        encoding: How masks of the training data stored the classes; an evaluation reads masks the same way.
        in_channels: Channels of an image.
        dtype: Type of the pixel values of the training images.
        mean: Mean of each channel in raw values.
        std: Standard deviation of each channel in raw values.
        tiling: How large images are cut.
        recipe: The resolved recipe that trained it.
        scores: Scores on the validation images, with their protocol.
    """

    network: str
    arguments: dict[str, Any]
    classes: Classes
    encoding: MaskEncoding
    in_channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tiling: Tiling = field(default_factory=Tiling)
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"format": FORMAT} | asdict(self) | {"encoding": self.encoding.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Description":
        """Back from plain values.

        Raises:
            ValueError: If a newer version wrote them, or something is missing.
        """
        values = dict(values)
        if values.pop("format", None) != FORMAT:
            raise ValueError(f"{DESCRIPTION} is not of format {FORMAT}; install the version of segwright that wrote it")
        try:
            classes = values["classes"]
            colors = tuple((r, g, b) for r, g, b in classes["colors"])
            values["classes"] = Classes(tuple(classes["names"]), colors)
            values["encoding"] = MaskEncoding.from_dict(values["encoding"])
            values["tiling"] = Tiling(**values["tiling"])
            return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{DESCRIPTION} is incomplete ({error}); train or export the segmenter again") from None


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
    def stride(self) -> int:
        """Sides of the network's input must be multiples of this; `predict` pads."""
        return int(getattr(self.network, "stride", 1))

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
        inside = folder / "segmenter"
        folder = inside if (inside / DESCRIPTION).is_file() else folder
        if not (folder / DESCRIPTION).is_file():
            raise ValueError(
                f"{folder} holds no segmenter ({DESCRIPTION} is missing); give the folder of a finished run, or of a "
                "segmenter"
            )
        try:
            description = Description.from_dict(json.loads((folder / DESCRIPTION).read_text()))
            tensors = safetensors.torch.load_file(folder / WEIGHTS)
        except (json.JSONDecodeError, SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{folder} is damaged ({error}); copy or train the segmenter again") from None
        segmenter = cls(build_network(description), description)
        try:
            segmenter.network.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{folder}: the weights do not fit {description.network} ({reason})") from None
        return segmenter.eval().to(memory_format=torch.channels_last)


def build_network(description: Description, *, weights: str = "none") -> nn.Module:
    """The network that a description names; its encoder starts from `weights` if it takes any."""
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
