"""How a tile joins its neighbors: weighted sums of logits where they overlap."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from segwright.inference.grid import Tile
from segwright.inference.logits import BestClass
from segwright.inference.seams import Seams


class _Joint(NamedTuple):
    """What a tile shares with its two neighbors along one axis.

    Attributes:
        head: The part that the one before has left its share of.
        head_weight: Weight of the tile there.
        left: That share; None if there is none.
        tail: The part that is left for the one after.
        tail_weight: Weight of the tile there.
        leaving: The tile's share of it, filled class by class, in the memory of `left` if that is as large.
        own: All but the tail.
    """

    head: tuple[slice, ...]
    head_weight: Float32[np.ndarray, "..."]
    left: Float32[np.ndarray, "..."] | None
    tail: tuple[slice, ...]
    tail_weight: Float32[np.ndarray, "..."]
    leaving: Float32[np.ndarray, "..."]
    own: tuple[slice, ...]

    def join(self, plane: Float32[np.ndarray, "*S"], index: int) -> Float32[np.ndarray, "*s"]:
        """Add to the logits of one class what was left, leave what is for the next tile; gives the rest."""
        head = plane[self.head]
        head *= self.head_weight
        if self.left is not None:
            head += self.left[index]
        np.multiply(plane[self.tail], self.tail_weight, out=self.leaving[index])
        return plane[self.own]


def blend(
    tile: Tile, mask: UInt8[np.ndarray, "*S"], logits: Float32[np.ndarray, "K *S"] | None, seams: Seams
) -> tuple[UInt8[np.ndarray, "*s"], Float32[np.ndarray, "K *s"] | None]:
    """Classes and logits of the pixels that are complete with a tile; what is shared with later tiles waits.

    Weights are a product over the axes, and so is their sum: an axis can be dealt with after the other. From the last
    axis to the first, the tile takes its share, adds what the neighbor before it left, and leaves what it shares with
    the next one, which then belongs to that one for the axes that follow. All of this is done for one class after the
    other, while its logits are in the processor's cache.

    Args:
        tile: The tile.
        mask: Its best classes.
        logits: Its logits, which are changed if they can be; None if no tile shares pixels with another.
        seams: What tiles have left for others.
    """
    mask = mask[tile.kept]
    if logits is None:
        return mask, None
    logits = logits[(slice(None), *tile.kept)]
    if not tile.shares:
        return mask, logits
    logits = logits if logits.flags.writeable else logits.copy()
    joints = _joints(tile, logits.shape, seams)
    best: list[tuple[tuple[slice, ...], BestClass]] = []
    for index, plane in enumerate(logits):
        for joint in joints.values():
            plane = joint.join(plane, index)  # noqa: PLW2901 - what is left of it
        if index == 0:
            best = [(joint.head, BestClass(plane[joint.head])) for joint in joints.values()]
        else:
            for head, found in best:
                found.add(plane[head])
    for key, joint in joints.items():
        if joint.leaving.size:
            seams.put(key, joint.leaving)
    own = tuple(slice(part.stop - part.start) for part in tile.own)
    mask = mask[own]
    mask = mask if mask.flags.writeable else mask.copy()
    for head, found in best:
        mask[head] = found.mask
    return mask, logits[(slice(None), *own)]


def _joints(tile: Tile, shape: tuple[int, ...], seams: Seams) -> dict[tuple[int, tuple[int, ...]], _Joint]:
    """What is shared along each axis, by its key among the seams, from the last axis to the first."""
    joints = {}
    num_classes, *sides = shape
    for axis in reversed(range(len(sides))):
        tiles, place, length = tile.axes[axis], tile.index[axis], sides[axis]
        key = axis, tile.index[axis + 1 :]
        before = tiles.shared(place - 1) if place else 0
        after = tiles.shared(place)
        # Of a row of tiles that is computed for the sake of the next one only, the row before is not there.
        left = seams.take(key) if before and key in seams else None
        leaving_shape = (num_classes, *sides[:axis], after, *sides[axis + 1 :])
        joints[key] = _Joint(
            head=_along(axis, 0, before),
            head_weight=_weight(tiles.ramps[place - 1][1] if before else None, len(sides) - axis - 1),
            left=left,
            tail=_along(axis, length - after, length),
            tail_weight=_weight(tiles.ramps[place][0] if after else None, len(sides) - axis - 1),
            leaving=left if left is not None and left.shape == leaving_shape else np.empty(leaving_shape, np.float32),
            own=_along(axis, 0, length - after),
        )
        sides[axis] -= after
    return joints


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """The part of an array that lies between two places of an axis."""
    return (*(slice(None),) * axis, slice(start, stop))


def _weight(ramp: Float32[np.ndarray, "N"] | None, axes_after: int) -> Float32[np.ndarray, "..."]:
    return np.ones(1, np.float32) if ramp is None else ramp.reshape(-1, *(1,) * axes_after)
