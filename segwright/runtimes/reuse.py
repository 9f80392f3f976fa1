"""Memory that is used again: the system has to zero what it gives anew, a tenth of the time of a quick network."""

import math
import weakref

import numpy as np
from jaxtyping import Float32


class ReusedMemory:
    """Arrays of one size after the other, in memory that goes round.

    An array keeps its memory for as long as it, or any view of it, is held anywhere.
    """

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def array(self, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        """An array of any content."""
        length = 4 * math.prod(shape)
        self._free = [memory for memory in self._free if len(memory) == length]
        memory = self._free.pop() if self._free else np.empty(length, np.uint8)
        # Views of an array over a buffer hold that array, not the buffer, so that its end is the end of all of them.
        numbers = np.frombuffer(memory.data, np.float32)
        weakref.finalize(numbers, self._free_again, memory).atexit = False
        return numbers.reshape(shape)

    def _free_again(self, memory: np.ndarray) -> None:
        self._free.append(memory)
