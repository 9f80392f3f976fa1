"""How classes are written in mask files, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt, UInt8

from segwright.data.colors import Color
from segwright.types import IGNORE_LABEL, Classes

StoredValue = int | Color
"""One value of a mask file: a number, or red, green and blue."""

_UNKNOWN = 256
_SHOWN_VALUES = 6


@dataclass(frozen=True)
class MaskEncoding:
    """The stored value of each class.

    Attributes:
        kind: "index" if the stored value is the class, "gray" for any other single values, "color" for RGB.
        values: Stored values of classes 0 to K - 1: 0 to 65535, or RGB triples for "color".
        void: Stored values that belong to no class.
    """

    kind: Literal["index", "gray", "color"]
    values: tuple[StoredValue, ...]
    void: tuple[StoredValue, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.values) <= IGNORE_LABEL:
            raise ValueError(f"the encoding has {len(self.values)} classes, but masks hold 1 to {IGNORE_LABEL}")
        every = (*self.values, *self.void)
        if len(set(every)) != len(every):
            raise ValueError(f"stored values {_join(every)} repeat; give each class and void values of its own")
        for value in every:
            is_color = isinstance(value, tuple) and len(value) == 3 and all(0 <= part <= 255 for part in value)
            is_single = isinstance(value, int) and 0 <= value <= 65535
            if not (is_color if self.kind == "color" else is_single):
                needed = "three numbers from 0 to 255" if self.kind == "color" else "a number from 0 to 65535"
                raise ValueError(f"stored value {value} came for a mask of kind {self.kind}, which needs {needed}")
        if self.kind == "index" and self.values != tuple(range(len(self.values))):
            raise ValueError(f"index masks store 0 to {len(self.values) - 1}, not {_join(self.values)}; use kind gray")

    def decode(self, stored: UInt[np.ndarray, "H W"] | UInt[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        """Class of each pixel, `IGNORE_LABEL` for void.

        Raises:
            ValueError: If a pixel holds a value of no class; names the values and counts their pixels.
        """
        codes = self._codes(stored)
        labels = _lookup_table(self)[codes]
        if labels.size and labels.max() == _UNKNOWN:
            unknown, counts = np.unique(codes[labels == _UNKNOWN], return_counts=True)
            raise ValueError(self.explain_unknown(unknown.tolist(), counts.tolist()))
        decoded: np.ndarray = labels.astype(np.uint8)
        return decoded

    def classes_of(self, codes: Iterable[int], *, is_color: bool) -> list[int]:
        """Class of each code (see `code_of`), `IGNORE_LABEL` for void, -1 for a value of no class.

        Args:
            codes: Codes of stored values.
            is_color: Whether the codes come from a color mask.
        """
        known = {code_of(value): label for label, value in enumerate(self.values)}
        known |= {code_of(value): IGNORE_LABEL for value in self.void}
        if self.kind == "color" and not is_color:
            return [known.get(code * 0x010101, -1) if code <= 255 else -1 for code in codes]
        if self.kind != "color" and is_color:
            return [-1 for _ in codes]
        return [known.get(code, -1) for code in codes]

    def explain_unknown(self, codes: Sequence[int], counts: Sequence[int], *, is_color: bool | None = None) -> str:
        """One sentence on values of no class: which, on how many pixels, and what to do."""
        in_color = self.kind == "color" if is_color is None else is_color
        order = sorted(range(len(codes)), key=lambda i: -counts[i])[:_SHOWN_VALUES]
        shown = ", ".join(
            f"{value_of(codes[i], is_color=in_color)} ({counts[i]:,} pixel{'s' if counts[i] > 1 else ''})"
            for i in order
        )
        more = f" and {len(codes) - len(order):,} more" if len(codes) > len(order) else ""
        return (
            f"the mask holds values outside the classes: {shown}{more}, but {_join((*self.values, *self.void))} are "
            "known; correct the mask, or add the values to dataset.yaml as classes or as ignore"
        )

    def describe(self, classes: Classes) -> str:
        """One sentence a person can check against the files."""
        void = f"; {_join(self.void)} {'is' if len(self.void) == 1 else 'are'} void" if self.void else ""
        if self.kind == "index" and len(self.values) > 2:
            return f"index: the stored values 0 to {len(self.values) - 1} are the classes themselves{void}"
        parts = [
            f"{value} is class {label} '{name}'"
            for label, (value, name) in enumerate(zip(self.values, classes.names, strict=True))
        ]
        if len(parts) > _SHOWN_VALUES:
            parts = [*parts[:3], "…", parts[-1]]
        kind = "/".join(map(str, self.values)) if self.kind != "color" and len(self.values) < 5 else self.kind
        return f"{kind}: {', '.join(parts)}{void}"

    def to_dict(self) -> dict[str, Any]:
        """Lists and strings only, for JSON."""
        return {
            "kind": self.kind,
            "values": [list(value) if isinstance(value, tuple) else value for value in self.values],
            "void": [list(value) if isinstance(value, tuple) else value for value in self.void],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "MaskEncoding":
        """The encoding that `to_dict` wrote."""
        values, void = (
            tuple(tuple(value) if isinstance(value, list) else value for value in data[key])
            for key in ("values", "void")
        )
        return cls(data["kind"], values, void)

    def _codes(self, stored: np.ndarray) -> np.ndarray:
        if stored.ndim == 3 and self.kind != "color":
            raise ValueError(
                f"the mask is in color, but the classes are stored as {_join(self.values)}; save it with one channel"
            )
        if stored.ndim == 3:
            return pack_colors(stored)
        if self.kind != "color":
            return stored
        if stored.max(initial=0) > 255:
            raise ValueError(f"the mask holds {stored.max()}, but colors end at 255; save it as 8-bit RGB")
        return stored * np.uint32(0x010101)


def code_of(value: StoredValue) -> int:
    """A stored value as one number: itself, or red, green and blue in 24 bits."""
    return value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2]


def value_of(code: int, *, is_color: bool) -> StoredValue:
    """The stored value of a code; the inverse of `code_of`."""
    return (code >> 16, code >> 8 & 255, code & 255) if is_color else code


def pack_colors(stored: UInt8[np.ndarray, "H W 3"]) -> UInt[np.ndarray, "H W"]:
    """The code of each pixel of a color mask."""
    red, green, blue = (stored[..., channel].astype(np.uint32) for channel in range(3))
    packed: np.ndarray = red << 16 | green << 8 | blue
    return packed


@lru_cache(maxsize=4)
def _lookup_table(encoding: MaskEncoding) -> np.ndarray:
    size = 2**24 if encoding.kind == "color" else 2**16
    table = np.full(size, _UNKNOWN, np.uint16)
    for label, value in enumerate(encoding.values):
        table[code_of(value)] = label
    for value in encoding.void:
        table[code_of(value)] = IGNORE_LABEL
    return table


def _join(values: Sequence[StoredValue]) -> str:
    if len(values) > 2 and all(isinstance(v, int) for v in values) and list(values) == list(range(len(values))):
        return f"0 to {len(values) - 1}"
    shown = [str(value) for value in values]
    if len(shown) > 12:
        shown = [*shown[:5], "…", *shown[-2:]]
    return (
        " and ".join(", ".join(shown).rsplit(", ", 1)) if all(isinstance(v, int) for v in values) else ", ".join(shown)
    )
