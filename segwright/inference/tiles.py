"""From an image of any size to a mask: tiles that overlap and are blended, in memory that one row of tiles needs.

An image has any number of spatial axes. Tiles are walked in reading order. What a tile shares with a later one waits
for it; all else is decided at once, so that no array holds the logits of a whole image unless they are asked for.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from segwright.inference.blending import blend
from segwright.inference.engine import Engine
from segwright.inference.grid import AxisTiles, Tile, cut_axis
from segwright.inference.seams import Seams
from segwright.types import Image

T = TypeVar("T")


class Source(Protocol):
    """An image that is read region by region: an array, or a file that is open."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the spatial axes, then channels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, region: tuple[slice, ...], /) -> Image:
        """The pixels of a region of the spatial axes, with all channels."""


class Band(NamedTuple):
    """Complete rows of a mask.

    Attributes:
        start: The first row.
        mask: Their classes.
        logits: Their blended logits, if they were asked for.
    """

    start: int
    mask: UInt8[np.ndarray, "h *S"]
    logits: Float32[np.ndarray, "K h *S"] | None


def cut_grid(engine: Engine, size: Sequence[int]) -> tuple[AxisTiles, ...]:
    """The tiles of an image of a size, as the engine's segmenter wants them."""
    tiling = engine.description.tiling
    return tuple(
        cut_axis(length, tiling.tile, tiling.overlap, stride=engine.stride, margin=engine.margin) for length in size
    )


def predict_bands(
    engine: Engine,
    image: Source,
    *,
    with_logits: bool = False,
    rows_done: int = 0,
    folder: Path | None = None,
) -> Iterator[Band]:
    """Segment an image tile by tile, from top to bottom.

    The next tiles are read and computed in threads while a tile is blended. What waits for a later row of tiles is
    as wide as the image; beyond 256 MB it goes to a file, so that memory grows neither with the image nor with the
    number of classes.

    Args:
        engine: What computes a tile.
        image: The image, of the channels and type of the training images.
        with_logits: Give the blended logits too.
        rows_done: Rows that an earlier call has given; bands go on from there.
        folder: Folder of the file for what waits; the system's folder for temporary files if none is given.

    Yields:
        Bands of complete rows, one a row of tiles.
    """
    axes = cut_grid(engine, image.shape[:-1])
    # The row of tiles before the first one that is wanted has what that one blends with.
    first = max(sum(axes[0].own(row)[1] <= rows_done for row in range(len(axes[0]))) - 1, 0)
    sides = [max(end - start for start, end in zip(a.starts, a.ends, strict=True)) for a in axes]
    tiles = [Tile(index, axes) for index in itertools.product(*(range(len(a)) for a in axes)) if index[0] >= first]
    needs_logits = with_logits or (engine.margin == 0 and any(len(a) > 1 for a in axes))
    num_classes = len(engine.description.classes)
    with Seams(4 * num_classes * math.prod(sides), folder) as seams:
        computed = _ahead(_compute(engine, _ahead(_read(image, tiles, engine.batch_size)), needs_logits))
        for row, parts in itertools.groupby(computed, key=lambda part: part[0].index[0]):
            start, stop = axes[0].own(row)
            size = (stop - start, *image.shape[1:-1])
            mask = np.empty(size, np.uint8)
            logits = np.empty((num_classes, *size), np.float32) if with_logits else None
            for tile, tile_mask, tile_logits in parts:
                place = (slice(None), *tile.own[1:])
                done_mask, done_logits = blend(tile, tile_mask, tile_logits, seams)
                mask[place] = done_mask
                if logits is not None:
                    logits[(slice(None), *place)] = done_logits
            if stop > rows_done:
                done = max(rows_done - start, 0)
                yield Band(start + done, mask[done:], None if logits is None else logits[:, done:])
        assert not len(seams)


def _read(image: Source, tiles: Iterable[Tile], batch_size: int) -> Iterator[tuple[list[Tile], np.ndarray]]:
    """Batches of neighboring tiles of one size, and their pixels."""
    waiting: list[tuple[Tile, np.ndarray]] = []
    for tile in tiles:
        pixels = np.asarray(image[tile.region])
        if waiting and (len(waiting) == batch_size or waiting[0][1].shape != pixels.shape):
            yield [one for one, _ in waiting], np.stack([found for _, found in waiting])
            waiting = []
        waiting.append((tile, pixels))
    if waiting:
        yield [one for one, _ in waiting], np.stack([found for _, found in waiting])


def _compute(
    engine: Engine, batches: Iterable[tuple[list[Tile], np.ndarray]], with_logits: bool
) -> Iterator[tuple[Tile, np.ndarray, np.ndarray | None]]:
    for tiles, images in batches:
        scores = engine(images, with_logits=with_logits)
        logits = [None] * len(tiles) if scores.logits is None else scores.logits
        yield from zip(tiles, scores.mask, logits, strict=True)


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, the next one of which is made in a thread while one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]
