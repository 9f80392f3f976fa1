"""Where tiles wait for their neighbors: sums of logits that a later tile adds to, in memory and beyond it in a file."""

import tempfile
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from jaxtyping import Float32

IN_MEMORY_BYTES = 256 * 2**20
"""Bytes of seams that are kept in memory."""


class Seams:
    """Arrays by key, each put once and taken once, of which only so many bytes are in memory.

    Args:
        slot_bytes: At least the bytes of the largest array.
        folder: Where the rest goes, into a file that has no name and is gone with the process; None takes the system's
            folder for such files.
        in_memory_bytes: Bytes that stay in memory.
    """

    def __init__(self, slot_bytes: int, folder: Path | None = None, in_memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._slot_bytes, self._folder, self._room = slot_bytes, folder, in_memory_bytes
        self._near: dict[Hashable, Float32[np.ndarray, "..."]] = {}
        self._far: dict[Hashable, tuple[int, tuple[int, ...]]] = {}
        self._free: list[int] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self._near) + len(self._far)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._near or key in self._far

    def put(self, key: Hashable, array: Float32[np.ndarray, "..."]) -> None:
        """Keep an array, which is given away: nobody may change it later."""
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            self._near[key] = array
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with the seams
        slot = self._free.pop() if self._free else len(self._far)
        # Slots are as long as the longest array; what is never written takes no room on the disk.
        self._file.seek(slot * self._slot_bytes)
        self._file.write(np.ascontiguousarray(array).data)
        self._far[key] = slot, array.shape

    def take(self, key: Hashable) -> Float32[np.ndarray, "..."]:
        """The array of a key, which is then forgotten."""
        if key in self._near:
            array = self._near.pop(key)
            self._room += array.nbytes
            return array
        assert self._file is not None
        slot, shape = self._far.pop(key)
        self._free.append(slot)
        self._file.seek(slot * self._slot_bytes)
        array = np.empty(shape, np.float32)
        array.data.cast("B")[:] = self._file.read(array.nbytes)
        return array
