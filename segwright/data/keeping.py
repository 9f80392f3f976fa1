"""A few images with their masks, copied as they are: what a run keeps to prove exports on when its data is gone."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from segwright.data.folder import Pair

MOST_BYTES = 64 * 2**20
"""Bytes that are copied at most."""


def keep_pairs(pairs: Sequence[Pair], folder: Path, most: int = 32) -> None:
    """Copy pairs, evenly taken, into `images/` and `masks/` of a folder.

    Copying ends before `MOST_BYTES` are passed, but with at least one pair. What is in the folder already is replaced.

    Args:
        pairs: Pairs to choose from; those without a mask are left out.
        folder: Where to; made if there is anything to keep.
        most: Pairs at most.
    """
    complete = [(pair.image, pair.mask) for pair in pairs if pair.mask is not None]
    step = max(len(complete) / most, 1)
    shutil.rmtree(folder, ignore_errors=True)
    total = 0
    for number in range(min(most, len(complete))):
        image, mask = complete[int(number * step)]
        total += image.stat().st_size + mask.stat().st_size
        if number > 0 and total > MOST_BYTES:
            break
        for kind, file in (("images", image), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / kind / f"{number:02d}{file.suffix}")
