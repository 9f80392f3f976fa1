"""What becomes of logits: the best class of each pixel, and probabilities."""

import numpy as np
from jaxtyping import Float32, UInt8


class BestClass:
    """The class with the highest logit, the first of equals, from the logits of one class after the other.

    With one class at a time in the processor's cache this takes a fifth of the time of numpy's argmax.

    Attributes:
        mask: Best class so far.
    """

    def __init__(self, first: Float32[np.ndarray, "*S"]) -> None:
        self._best = first.copy()
        self._count = 1
        self.mask = np.zeros(first.shape, np.uint8)

    def add(self, logits: Float32[np.ndarray, "*S"]) -> None:
        """Take the next class."""
        # Later classes have higher numbers, so that the maximum of the numbers is the last one that was better.
        better = (logits > self._best).view(np.uint8)
        np.multiply(better, self._count, out=better, casting="unsafe")
        np.maximum(self.mask, better, out=self.mask)
        np.maximum(self._best, logits, out=self._best)
        self._count += 1


def best_class(logits: Float32[np.ndarray, "K *S"]) -> UInt8[np.ndarray, "*S"]:
    """Class with the highest logit, the first of equals."""
    best = BestClass(logits[0])
    for plane in logits[1:]:
        best.add(plane)
    return best.mask


def softmax(logits: Float32[np.ndarray, "K *S"]) -> Float32[np.ndarray, "K *S"]:
    """Probabilities of the classes."""
    powers = logits - logits.max(axis=0)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return np.asarray(powers)
