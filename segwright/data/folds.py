"""Parts of a data set that take turns as validation images (cross-validation)."""

import hashlib
from dataclasses import replace
from pathlib import Path

from segwright.data.folder import Folder, Pair, find_pairs


def find_fold(root: Path, fold: tuple[int, int] | None) -> Folder:
    """The pairs of a folder, with one of several parts held out for validation.

    Training and validation pairs with masks are put together and dealt out by a hash of their names, the same on every
    machine; test pairs stay apart.

    Args:
        root: Folder in one of the layouts of `find_pairs`.
        fold: Number of the part that is held out, from 1, and number of parts; None leaves the splits as they are.

    Raises:
        ValueError: If there are fewer pairs than parts, or as `find_pairs`.
    """
    folder = find_pairs(root)
    if fold is None:
        return folder
    number, count = fold
    pairs = _pool(folder)
    if len(pairs) < count:
        raise ValueError(f"{root} has {len(pairs)} pairs, but {count} folds need as many or more; give fewer folds")
    dealt = sorted(pairs, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
    held_out = {id(pair) for pair in dealt[number - 1 :: count]}
    splits = {
        "train": tuple(pair for pair in pairs if id(pair) not in held_out),
        "val": tuple(pair for pair in pairs if id(pair) in held_out),
    }
    test = {split: kept for split, kept in folder.splits.items() if split == "test"}
    layout = f"{folder.layout}; fold {number} of {count} is held out"
    return replace(folder, layout=layout, splits=splits | test)


def _pool(folder: Folder) -> list[Pair]:
    """Training and validation pairs with masks; names that both have get their split in front."""
    names = [{pair.name for pair in folder.splits.get(split, ())} for split in ("train", "val")]
    return [
        replace(pair, name=f"{split}/{pair.name}") if pair.name in names[0] & names[1] else pair
        for split in ("train", "val")
        for pair in folder.splits.get(split, ())
        if pair.mask is not None
    ]
