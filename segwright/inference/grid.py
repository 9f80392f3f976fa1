"""Where tiles lie: along each axis they overlap, and no pixel lies in more than two of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis.

    Attributes:
        starts: Where tiles start to read, multiples of the stride.
        ends: Where they end to read.
        kept: Of each tile, what is used of it: from and to, in pixels of the image. What two tiles both keep is
            blended.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    kept: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.starts)

    def shared(self, index: int) -> int:
        """Pixels that a tile shares with the next one."""
        return self.kept[index][1] - self.kept[index + 1][0] if index + 1 < len(self) else 0

    def own(self, index: int) -> tuple[int, int]:
        """The pixels that are complete with this tile: all that it keeps but what the next one adds to."""
        first, last = self.kept[index]
        return first, last - self.shared(index)

    @cached_property
    def ramps(self) -> tuple[tuple[Float32[np.ndarray, "_"], Float32[np.ndarray, "_"]], ...]:
        """Of each pair of neighbors, the weights of the first and of the second on the pixels that they share."""
        return tuple(self._ramp(index) for index in range(len(self) - 1))

    def _ramp(self, index: int) -> tuple[Float32[np.ndarray, "N"], Float32[np.ndarray, "N"]]:
        position = np.arange(self.kept[index + 1][0], self.kept[index][1])
        first, second = (_bell(position, self.starts[tile], self.ends[tile]) for tile in (index, index + 1))
        weight = (first / (first + second)).astype(np.float32)
        return weight, 1 - weight


def _bell(position: np.ndarray, start: int, end: int) -> np.ndarray:
    # Sigma a twelfth of the tile. With the eighth that nnU-Net has, the border of a tile, which lacks its context,
    # still counts: U-Net ResNet-34, 1,440 x 1,920 pixels, 522 instead of 6 of them differ from the whole's result.
    distance = (position - (start + end - 1) / 2) / ((end - start) / 12)
    return np.asarray(np.exp(-0.5 * distance**2))


@dataclass(frozen=True)
class Tile:
    """One tile of a grid.

    Attributes:
        index: Its place along each axis.
        axes: The tiles of each axis.
    """

    index: tuple[int, ...]
    axes: tuple[AxisTiles, ...]

    @property
    def region(self) -> tuple[slice, ...]:
        """What it reads of the image."""
        return tuple(slice(a.starts[i], a.ends[i]) for a, i in zip(self.axes, self.index, strict=True))

    @property
    def kept(self) -> tuple[slice, ...]:
        """What is used of it, counted from where it starts to read."""
        pairs = zip(self.axes, self.index, strict=True)
        return tuple(slice(a.kept[i][0] - a.starts[i], a.kept[i][1] - a.starts[i]) for a, i in pairs)

    @property
    def own(self) -> tuple[slice, ...]:
        """The pixels of the image that are complete with it."""
        return tuple(slice(*a.own(i)) for a, i in zip(self.axes, self.index, strict=True))

    @property
    def shares(self) -> bool:
        """Whether another tile adds to it."""
        pairs = list(zip(self.axes, self.index, strict=True))
        return any(a.shared(i) or (i and a.shared(i - 1)) for a, i in pairs)


def cut_axis(length: int, tile: int, overlap: int, *, stride: int = 1, margin: int = 0) -> AxisTiles:
    """Tiles along an axis, evenly spread; a single one if they would cover it.

    Args:
        length: Pixels of the axis.
        tile: Wanted length of a tile; it is rounded down to a multiple of `stride`, one at least.
        overlap: Pixels that neighbors share at least.
        stride: Multiples of it are where tiles start, so that the pooling grid lies the same in all.
        margin: Pixels from its border from which on a tile is exact. Above 0 tiles are cut halfway instead of blended,
            and made large enough for it.
    """
    if margin > 0:
        overlap = max(overlap, 2 * margin)
        tile = max(tile, overlap + stride)
    tile = max(tile // stride, 1) * stride if margin == 0 else -(-tile // stride) * stride
    if length <= tile:
        return AxisTiles((0,), (length,), ((0, length),))
    last = -(-(length - tile) // stride)  # of the last start, in strides; its tile may be shorter than the others
    step = max((tile - overlap) // stride, 1)
    count = 1 + -(-last // step)
    starts = tuple(round(index * last / (count - 1)) * stride for index in range(count))
    ends = tuple(min(start + tile, length) for start in starts)
    return AxisTiles(starts, ends, _cut(starts, ends) if margin > 0 else _blend(starts, ends))


def _cut(starts: Sequence[int], ends: Sequence[int]) -> tuple[tuple[int, int], ...]:
    inner = [(start + end) // 2 for start, end in zip(starts[1:], ends[:-1], strict=True)]
    return tuple(zip([0, *inner], [*inner, ends[-1]], strict=True))


def _blend(starts: Sequence[int], ends: Sequence[int]) -> tuple[tuple[int, int], ...]:
    # A tile ends where the one after the next starts, so that two at most share a pixel.
    nexts = [*starts[2:], ends[-1], ends[-1]]
    return tuple((start, min(end, after)) for start, end, after in zip(starts, ends, nexts, strict=False))
