"""Real images to prove and to calibrate an export with."""

from collections.abc import Sequence
from pathlib import Path

from segwright.data.folder import Dataset, Pair, find_pairs
from segwright.data.folds import find_fold
from segwright.inference.description import Description
from segwright.types import Sample

SPLITS = ("val", "test", "train")


def find_samples(
    description: Description, source: Path, data: Path | None
) -> tuple[Dataset, dict[str, tuple[Pair, ...]]]:
    """The data set that an export is proved on, and its pairs by split.

    Args:
        description: Of the segmenter, whose classes and mask encoding are used.
        source: Folder of the segmenter.
        data: Folder with images and, for scores, masks; if none is given, the data that the segmenter was trained on,
            or else the images that its run kept.

    Raises:
        ValueError: If there is no such folder, or it has no images.
    """
    held_out = None
    if data is None:
        trained_on, kept = description.recipe.get("data"), source.parent / "samples"
        if trained_on and Path(trained_on).is_dir():
            data = Path(trained_on)
            held_out = description.held_out(data)
        elif kept.is_dir():
            data = kept
        else:
            raise ValueError(
                f"the data that the segmenter was trained on ({trained_on or 'unknown'}) is not there, but real images "
                "are needed to prove that the masks are the same; give a folder of images with --data"
            )
    found = find_fold(data, held_out) if held_out else find_pairs(data)
    dataset = Dataset(
        found.root, found.layout, description.classes, description.encoding, found.splits, description.in_channels
    )
    return dataset, found.splits


def _evenly(pairs: Sequence[Pair], most: int) -> list[Pair]:
    step = max(len(pairs) / most, 1)
    return [pairs[int(index * step)] for index in range(min(most, len(pairs)))]


def proof_samples(description: Description, source: Path, data: Path | None, most: int) -> list[Sample]:
    """Images that training did not see, if there are any: of the validation part, else the test part, else training.

    Raises:
        ValueError: As `find_samples`, or if a file is damaged or does not fit the segmenter.
    """
    dataset, splits = find_samples(description, source, data)
    return [dataset.read(pair) for pair in _evenly(_unseen(splits), most)]


def check_samples(
    description: Description, source: Path, data: Path | None, most: int, *, in_proof: int
) -> list[Sample]:
    """Images to choose the layers of an int8 network by: what the proof does not take of its part, if anything.

    Raises:
        ValueError: As `find_samples`, or if a file is damaged or does not fit the segmenter.
    """
    dataset, splits = find_samples(description, source, data)
    pairs = _unseen(splits)
    taken = set(_evenly(pairs, in_proof))
    return [dataset.read(pair) for pair in _evenly([pair for pair in pairs if pair not in taken], most)]


def calibration_samples(description: Description, source: Path, data: Path | None, most: int) -> list[Sample]:
    """Images as training saw them, to find the ranges of activations.

    Raises:
        ValueError: As `find_samples`, or if a file is damaged or does not fit the segmenter.
    """
    dataset, splits = find_samples(description, source, data)
    split = next(name for name in reversed(SPLITS) if splits.get(name))
    return [dataset.read(pair) for pair in _evenly(splits[split], most)]


def _unseen(splits: dict[str, tuple[Pair, ...]]) -> tuple[Pair, ...]:
    return next(splits[name] for name in SPLITS if splits.get(name))
