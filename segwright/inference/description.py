"""All of a segmenter but its weights."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segwright.data.encoding import MaskEncoding
from segwright.inference.cleanup import CleanUp
from segwright.types import Classes

DESCRIPTION, WEIGHTS = "segmenter.json", "model.safetensors"
"""Files of a segmenter's folder."""
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
        cleanup: What is tidied up in every mask.
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
    cleanup: CleanUp = field(default_factory=CleanUp)
    recipe: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def held_out(self, data: Path) -> tuple[int, int] | None:
        """Part of a data set that this segmenter did not train on, if it is one of a cross-validation on that data."""
        train = self.recipe.get("train", {})
        is_same = Path(self.recipe.get("data", "")).resolve() == data.resolve()
        return (train["fold"], train["folds"]) if is_same and train.get("fold") else None

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
            values["cleanup"] = CleanUp(**values.get("cleanup", {}))
            return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{DESCRIPTION} is incomplete ({error}); train or export the segmenter again") from None


def find_segmenter(folder: Path) -> Path:
    """The folder of a segmenter that a folder is, or that a run's folder holds.

    Raises:
        ValueError: If there is none.
    """
    inside = folder / "segmenter"
    found = inside if (inside / DESCRIPTION).is_file() else folder
    if not (found / DESCRIPTION).is_file():
        raise ValueError(
            f"{folder} holds no segmenter ({DESCRIPTION} is missing); give the folder of a finished run, of a "
            "segmenter, or of an export"
        )
    return found


def read_description(folder: Path) -> Description:
    """The description in a segmenter's folder.

    Raises:
        ValueError: If it is damaged, incomplete, or of another version.
    """
    try:
        return Description.from_dict(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{folder} is damaged ({error}); copy or train the segmenter again") from None
