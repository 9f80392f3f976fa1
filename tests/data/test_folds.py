"""Tests of holding out parts of a data set."""

from pathlib import Path

import pytest
from samples import write_pair

from segwright.data.folds import find_fold
from segwright.data.inspection import inspect


def test_each_image_is_held_out_once_and_trains_the_other_folds(rectangles: Path) -> None:
    held_out = []
    for number in (1, 2, 3, 4):
        splits = find_fold(rectangles, (number, 4)).splits
        names = {split: [pair.name for pair in pairs] for split, pairs in splits.items()}
        assert sorted(names["train"] + names["val"]) == [f"{index:02d}" for index in range(9)]
        assert len(names["val"]) in (2, 3)
        held_out += names["val"]
    assert sorted(held_out) == [f"{index:02d}" for index in range(9)]


def test_test_pairs_stay_apart(rectangles: Path) -> None:
    write_pair(rectangles, "test", "last", 5)
    splits = find_fold(rectangles, (1, 3)).splits
    assert [pair.name for pair in splits["test"]] == ["last"]
    assert "last" not in [pair.name for split in ("train", "val") for pair in splits[split]]


def test_statistics_are_of_the_training_part_of_the_fold(rectangles: Path) -> None:
    first, second = (inspect(rectangles, fold=(number, 3)).statistics for number in (1, 2))
    assert first.num_pairs == {"train": 6, "val": 3}
    assert first.channel_means != second.channel_means


def test_more_folds_than_images_are_refused(rectangles: Path) -> None:
    with pytest.raises(ValueError, match="has 9 pairs, but 10 folds need as many or more"):
        find_fold(rectangles, (1, 10))
