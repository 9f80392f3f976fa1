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


def read_samples(dataset: Dataset, pairs: Sequence[Pair], most: int) -> list[Sample]:
    """Images with their masks, evenly taken, at most so many.

    Raises:
        ValueError: If a file is damaged or does not fit the segmenter.
    """
    step = max(len(pairs) / most, 1)
    chosen = [pairs[int(index * step)] for index in range(min(most, len(pairs)))]
    return [dataset.read(pair) for pair in chosen]


def proof_samples(description: Description, source: Path, data: Path | None, most: int) -> list[Sample]:
    """Images that training did not see, if there are any: of the validation part, else the test part, else training.

    Raises:
        ValueError: As `find_samples` and `read_samples`.
    """
    dataset, splits = find_samples(description, source, data)
    split = next(name for name in SPLITS if splits.get(name))
    return read_samples(dataset, splits[split], most)


def calibration_samples(description: Description, source: Path, data: Path | None, most: int) -> list[Sample]:
    """Images as training saw them, to find the ranges of activations.

    Raises:
        ValueError: As `find_samples` and `read_samples`.
    """
    dataset, splits = find_samples(description, source, data)
    split = next(name for name in reversed(SPLITS) if splits.get(name))
    return read_samples(dataset, splits[split], most)
