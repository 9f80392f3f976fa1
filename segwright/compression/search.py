"""Which layers stay in floating point: as few as possible, the most harmful first."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from segwright.compression.layers import Graph, Runner


class TooManyChangesError(RuntimeError):
    """A network of which too many pixels change their class, whatever is put back into floating point."""


class LayerSearch:
    """Puts layers back into floating point until enough pixels keep their class.

    Args:
        graph: The network, after `take`.
        harms: Harm of each layer that can be in int8; see `LayerReport`.
        check: Images that tell how many pixels keep their class.
        tell: Is called with each attempt in words.
    """

    def __init__(
        self,
        graph: Graph,
        harms: dict[str, float],
        check: Sequence[Shaped[np.ndarray, "_ _ C"]],
        tell: Callable[[str], None],
    ) -> None:
        self._graph, self._check, self._tell = graph, check, tell
        self._order = sorted(harms, key=harms.__getitem__, reverse=True)
        exact = graph.open(graph.model)
        self._expected = [exact(image)[0] for image in check]
        self._found: dict[int, float] = {}  # share of equal pixels by the number of layers that are put back

    def find(self, tolerance: float) -> tuple[set[str], Any, float]:
        """Layers that stay in int8, the model, and the share of pixels that keep their class.

        1, 2, 4 and so on are put back, then fewer between the last two, until one layer less would be too few.

        Args:
            tolerance: Least share of pixels that keep their class.

        Raises:
            TooManyChangesError: If too few keep it with only one layer that has weights in int8.
        """
        order = self._order
        weighted = {layer.node for layer in self._graph.layers if layer.weights is not None}
        limit = max((place for place, node in enumerate(order) if node in weighted), default=len(order) - 1)
        too_few, count = -1, 0
        while (equal := self._equal(count)) < tolerance:
            if count == limit:
                raise TooManyChangesError(
                    f"{equal:.3%} of the pixels keep their class with all but {len(order) - count} layers in floating "
                    f"point, but the tolerance asks for {tolerance:.3%}; export in floating point instead, or train "
                    "longer, since an unsure segmenter tips easily"
                )
            too_few, count = count, min(max(2 * count, 1), limit)
        while count - too_few > 1:
            middle = (too_few + count) // 2
            if self._equal(middle) < tolerance:
                too_few = middle
            else:
                count = middle
        is_int8 = set(order[count:])
        return is_int8, self._graph.assemble(is_int8), self._equal(count)

    def _equal(self, count: int) -> float:
        """Share of the pixels that keep their class with so many layers in floating point."""
        if count not in self._found:
            is_int8 = set(self._order[count:])
            run = self._graph.open(self._graph.assemble(is_int8), exact=False)
            self._found[count] = equal = _share_equal(run, self._check, self._expected)
            total = len(self._order)
            self._tell(f"{equal:.3%} of the pixels keep their class with {len(is_int8)} of {total} layers in int8")
        return self._found[count]


def _share_equal(
    run: Runner, images: Sequence[Shaped[np.ndarray, "_ _ C"]], expected: Sequence[UInt8[np.ndarray, "1 _ _"]]
) -> float:
    equal = sum(int((run(image)[0] == mask).sum()) for image, mask in zip(images, expected, strict=True))
    return equal / sum(mask.size for mask in expected)
