"""Tests of names of weights."""

import torch

from segwright.layers.names import rename


def test_rules_follow_each_other_and_keep_the_values() -> None:
    weights = {"a.0.weight": torch.zeros(1), "b.1.bias": torch.ones(2)}
    renamed = rename(weights, [(r"^a\.", "head."), (r"head\.(\d)\.", r"head.layer\1.")])
    assert list(renamed) == ["head.layer0.weight", "b.1.bias"]
    assert renamed["b.1.bias"] is weights["b.1.bias"]
