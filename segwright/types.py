"""What the rooms hand to each other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

IGNORE_LABEL = 255
"""Value of void pixels in every mask that has been read; masks are uint8, so a data set has at most 255 classes."""

Image = np.ndarray
"""Pixels as (H, W, C): uint8, uint16 or float32, as stored in the file."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, in the order of their indices.

    Attributes:
        names: One name a class.
        colors: One RGB color a class, 0 to 255, for overlays.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(
                f"{len(self.names)} class names came with {len(self.colors)} colors; give one color a name"
            )
        if not 0 < len(self.names) <= IGNORE_LABEL:
            raise ValueError(f"{len(self.names)} classes came, but a data set has 1 to {IGNORE_LABEL} of them")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Sample:
    """One image with its mask.

    Attributes:
        name: Stem of the image file.
        image: Pixels as (H, W, C) in the type of the file: uint8, uint16 or float32.
        mask: Class of each pixel as (H, W) uint8, `IGNORE_LABEL` for void; None if there is no mask.
    """

    name: str
    image: Image
    mask: UInt8[np.ndarray, "H W"] | None


@dataclass(frozen=True)
class Paper:
    """Where a network, a loss or a method comes from.

    Attributes:
        authors: Family names, "et al." after the first where there are many.
        title: As printed.
        venue: Conference or journal, short, without the year.
        year: Of the venue.
        url: Of a copy that anyone can read, where there is one.
    """

    authors: str
    title: str
    venue: str
    year: int
    url: str

    def __str__(self) -> str:
        return f"{self.authors}, {self.title}, {self.venue} {self.year}, {self.url}"
