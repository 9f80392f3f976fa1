"""The table of all networks, read without importing any of them."""

import json
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from segwright.types import Paper

SIDE = 512
"""Height and width of the image that operations are counted on."""

NUM_CLASSES = 21
"""Classes of the networks that are counted, as in most papers."""

TABLE = "table.json"


@dataclass(frozen=True)
class Row:
    """One network in the table.

    Attributes:
        name: What a recipe calls it.
        title: What the field calls it.
        paper: Where it comes from.
        takes: Kind of input.
        stride: Sides of the input must be multiples of this.
        parameters: Of the network with its defaults, 3 channels and `NUM_CLASSES` classes.
        gmacs: Billions of multiplications with addition for one image of `SIDE` x `SIDE`.
        miou: Our score in `benchmarks/zoo.csv` in %; None if it was not trained there.
    """

    name: str
    title: str
    paper: Paper
    takes: str
    stride: int
    parameters: int
    gmacs: float
    miou: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Row":
        """From plain values."""
        return Row(**values | {"paper": Paper(**values["paper"])})


def read_table() -> list[Row]:
    """The table of all networks as it was last counted, oldest first."""
    text = resources.files("segwright.networks").joinpath(TABLE).read_text(encoding="utf-8")
    return [Row.from_json(values) for values in json.loads(text)]
