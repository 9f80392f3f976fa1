"""Tests of the search for the layers that stay in floating point."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest

from segwright.compression.layers import GraphLayer
from segwright.compression.search import LayerSearch, TooManyChangesError


class Made:
    """A network of which it is known how many pixels keep their class for each set of layers in int8."""

    model, made, kept = frozenset[str](), None, list[str]()

    def __init__(self, harms: dict[str, int]) -> None:
        self.harms, self.tried = harms, list[int]()
        self.opened: list[bool] = []
        self.layers = tuple(GraphLayer(name, "Conv", np.ones(1), name) for name in harms)
        self.quantized = frozenset(harms)

    def take(self, model: Any) -> None:
        raise NotImplementedError

    def assemble(self, is_int8: Collection[str]) -> Any:
        self.tried.append(len(self.harms) - len(is_int8))
        return frozenset(is_int8)

    def assemble_switched(self, order: Any) -> Any:
        raise NotImplementedError

    def open(self, model: Any, *, exact: bool = True) -> Any:
        self.opened.append(exact)
        mask = np.zeros((1, 10, 10), np.uint8)
        mask.ravel()[: sum(self.harms[name] for name in model)] = 1
        return lambda image: (mask, None)


def search(graph: Made, tell: Callable[[str], object] = len) -> LayerSearch:
    harms = {name: float(harm) for name, harm in graph.harms.items()}
    return LayerSearch(graph, harms, [np.zeros((10, 10, 3), np.uint8)], tell)


@pytest.mark.parametrize("needed", range(12))
def test_as_few_layers_as_possible_are_put_back(needed: int) -> None:
    harms = {f"{number}": 7 if number < needed else 0 for number in range(12)}
    graph = Made(harms)
    is_int8, model, equal = search(graph).find(0.995)
    assert (is_int8, model, equal) == ({f"{number}" for number in range(needed, 12)}, is_int8, 1)
    assert len(set(graph.tried)) <= 8


def test_the_most_harmful_layers_are_put_back_first() -> None:
    harms = {"a": 3, "b": 40, "c": 1, "d": 20}
    is_int8, _, equal = search(Made(harms)).find(0.95)
    assert (is_int8, equal) == ({"a", "c"}, 0.96)


def test_a_network_that_needs_all_layers_in_floating_point_is_refused() -> None:
    graph = Made(dict.fromkeys("abcd", 10))
    sentence = (
        "90.000% of the pixels keep their class with all but 1 layers in floating point, but the tolerance asks for"
    )
    with pytest.raises(TooManyChangesError, match=sentence):
        search(graph).find(0.995)


def test_a_network_with_only_an_addition_in_int8_is_refused() -> None:
    graph = Made({"conv": 10, "add": 0})
    graph.layers = (graph.layers[0], GraphLayer("add", "Add", None, "conv"))
    with pytest.raises(TooManyChangesError, match=r"90\.000% of the pixels keep their class with all but 2 layers"):
        search(graph).find(0.995)


def test_a_second_search_tries_only_what_is_new() -> None:
    graph, said = Made({"a": 8, "b": 4, "c": 2, "d": 1, "e": 0}), list[str]()
    found = search(graph, said.append)
    assert found.find(0.95)[0] == {"c", "d", "e"}
    assert found.find(0.99)[0] == {"d", "e"}
    assert found.find(0.95)[0] == {"c", "d", "e"}
    assert len(said) == len(set(said))


def test_what_is_not_in_int8_is_computed_as_engines_do() -> None:
    graph = Made({"a": 1})
    search(graph).find(0.9)
    assert graph.opened == [True, False]
