"""Tests of the images that a run keeps."""

from pathlib import Path

import pytest

from segwright.data import keeping
from segwright.data.folder import Pair, find_pairs
from segwright.data.keeping import keep_pairs


def test_pairs_are_taken_evenly_and_are_a_data_set(rectangles: Path, tmp_path: Path) -> None:
    pairs = find_pairs(rectangles).splits["train"]
    keep_pairs(pairs, tmp_path / "kept", most=3)
    kept = [pair for found in find_pairs(tmp_path / "kept").splits.values() for pair in found]
    assert sorted(pair.name for pair in kept) == ["00", "01", "02"]
    for pair in kept:
        original = pairs[2 * int(pair.name)]
        assert pair.image.read_bytes() == original.image.read_bytes()
        assert pair.mask is not None
        assert original.mask is not None
        assert pair.mask.read_bytes() == original.mask.read_bytes()


def test_earlier_ones_are_replaced(rectangles: Path, tmp_path: Path) -> None:
    pairs = find_pairs(rectangles).splits["train"]
    keep_pairs(pairs, tmp_path / "kept")
    keep_pairs(pairs[:1], tmp_path / "kept")
    assert len(list((tmp_path / "kept" / "images").iterdir())) == 1


def test_large_files_are_few_but_one(rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_BYTES", 1)
    keep_pairs(find_pairs(rectangles).splits["train"], tmp_path / "kept")
    assert len(list((tmp_path / "kept" / "masks").iterdir())) == 1


def test_without_masks_nothing_is_made(tmp_path: Path) -> None:
    keep_pairs([Pair("a", tmp_path / "a.png", None)], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
