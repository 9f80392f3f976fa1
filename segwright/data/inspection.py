"""Read a data set once, check every file, and describe what it holds."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segwright.data.description import Description
from segwright.data.detection import Detection, detect_encoding
from segwright.data.encoding import MaskEncoding
from segwright.data.folder import Dataset, Folder, Pair, size_mismatch
from segwright.data.folds import find_fold
from segwright.data.images import UnreadableFileError, read_image
from segwright.data.measures import ImageFacts, MaskFacts, measure_image, measure_mask
from segwright.data.statistics import Record, Statistics, count_classes, summarize
from segwright.types import Classes


@dataclass(frozen=True)
class Problem:
    """Something that a person should correct or know.

    Attributes:
        severity: "error" if the pair is left out, "warning" if it is used.
        file: Path relative to the data set; "." for the data set as a whole.
        message: One sentence on what came, what is needed and what to do.
    """

    severity: Literal["error", "warning"]
    file: str
    message: str


@dataclass(frozen=True)
class Inspection:
    """What a data set holds.

    Attributes:
        dataset: The pairs that passed every check.
        problems: Errors first, then warnings.
        notes: Conclusions on the masks that a person may want to check.
        statistics: Sizes, values and classes of those pairs.
        shown: Classes that the mask of each pair shows; none for a pair without a mask. Not in `to_json`.
    """

    dataset: Dataset
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    statistics: Statistics
    shown: dict[Pair, tuple[int, ...]] = field(default_factory=dict)

    def refuse_errors(self) -> None:
        """Refuse to go on with data that has errors.

        Raises:
            ValueError: Names the first file with an error, and how many more there are.
        """
        errors = [problem for problem in self.problems if problem.severity == "error"]
        if errors:
            more = f" ({len(errors) - 1} more; see segwright inspect {self.dataset.root})" if len(errors) > 1 else ""
            file = self.dataset.root if errors[0].file == "." else self.dataset.root / errors[0].file
            raise ValueError(f"{file}: {errors[0].message}{more}")

    def to_json(self) -> dict[str, Any]:
        """Everything as dictionaries, lists, strings and numbers."""
        dataset, root = self.dataset, self.dataset.root
        return {
            "root": str(root),
            "layout": dataset.layout,
            "channels": dataset.channels,
            "classes": None if dataset.classes is None else _plain(asdict(dataset.classes)),
            "encoding": None if dataset.encoding is None else dataset.encoding.to_dict(),
            "splits": {
                split: [
                    {"name": p.name, "image": _relative(p.image, root), "mask": p.mask and _relative(p.mask, root)}
                    for p in pairs
                ]
                for split, pairs in dataset.splits.items()
            },
            "statistics": _plain(asdict(self.statistics)),
            "notes": list(self.notes),
            "problems": [asdict(problem) for problem in self.problems],
        }


@dataclass(frozen=True)
class _Reading:
    """A pair with the facts of its files, or the reasons why there are none."""

    split: str
    pair: Pair
    image: ImageFacts | str
    mask: MaskFacts | str | None


def inspect(
    root: Path,
    encoding: MaskEncoding | None = None,
    classes: Classes | None = None,
    progress: Callable[[int, int], None] | None = None,
    fold: tuple[int, int] | None = None,
) -> Inspection:
    """Read every image and every mask of a folder once and check them against each other.

    Pairs with an error are left out of the data set; if the masks as a whole cannot be understood, all pairs are.

    Args:
        root: Folder in one of the layouts of `find_pairs`.
        encoding: How masks store classes, as a trained segmenter knows it; found out from the masks if None.
        classes: Classes of that segmenter; given with `encoding` or not at all.
        progress: Called with the number of pairs done and of all pairs.
        fold: Part that is held out for validation, see `find_fold`; None leaves the splits as they are.

    Raises:
        ValueError: If the folder holds no pairs, its dataset.yaml is wrong, or `encoding` or `classes` came alone.
    """
    if (encoding is None) != (classes is None):
        raise ValueError("one of encoding and classes came alone; give both, or neither to find them out")
    folder = find_fold(root, fold)
    readings = _read_all(folder, progress)
    problems = _folder_problems(folder)
    notes: tuple[str, ...] = ()
    rejected: dict[Path, str] = {}
    if encoding is None and any(isinstance(reading.mask, MaskFacts) for reading in readings):
        detection, rejected = _detect(readings, folder.description)
        encoding, classes, notes = detection.encoding, detection.classes, detection.notes
        if detection.error:
            problems.append(Problem("error", ".", detection.error))
    records, channels, errors = _check(readings, encoding, rejected, folder.root)
    kept = {(record.split, record.name) for record in records}
    chosen = {split: tuple(p for p in pairs if (split, p.name) in kept) for split, pairs in folder.splits.items()}
    statistics = summarize(records, 0 if classes is None else len(classes))
    splits = {split: pairs for split, pairs in chosen.items() if pairs}
    dataset = Dataset(folder.root, folder.layout, classes, encoding, splits, channels)
    problems += _leaks(records, dataset) + _class_problems(records, statistics, dataset)
    problems = sorted(problems + errors, key=lambda problem: problem.severity != "error")
    return Inspection(dataset, tuple(problems), notes, statistics, _shown(records, splits))


def _read_all(folder: Folder, progress: Callable[[int, int], None] | None) -> list[_Reading]:
    pairs = [(split, pair) for split, group in folder.splits.items() for pair in group]
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        futures = [executor.submit(_read, split, pair) for split, pair in pairs]
        try:
            for done, _ in enumerate(as_completed(futures), start=1):
                if progress is not None:
                    progress(done, len(pairs))
        except KeyboardInterrupt:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _read(split: str, pair: Pair) -> _Reading:
    image: ImageFacts | str
    mask: MaskFacts | str | None
    try:
        image = measure_image(read_image(pair.image))
    except UnreadableFileError as error:
        image = error.reason
    try:
        mask = None if pair.mask is None else measure_mask(pair.mask)
    except UnreadableFileError as error:
        mask = error.reason
    return _Reading(split, pair, image, mask)


def _detect(readings: Sequence[_Reading], description: Description) -> tuple[Detection, dict[Path, str]]:
    readable = [reading for reading in readings if isinstance(reading.mask, MaskFacts)]
    masks = [reading.mask for reading in readable if isinstance(reading.mask, MaskFacts)]
    detection = detect_encoding(masks, description)
    rejected = {path: reason for i, reason in detection.rejected.items() if (path := readable[i].pair.mask) is not None}
    return detection, rejected


def _check(
    readings: Sequence[_Reading], encoding: MaskEncoding | None, rejected: dict[Path, str], root: Path
) -> tuple[list[Record], int, list[Problem]]:
    """The pairs without error, the usual number of channels, and the errors of the others."""
    images = [reading.image for reading in readings if isinstance(reading.image, ImageFacts)]
    kinds = Counter((image.channels, image.dtype) for image in images)
    usual = kinds.most_common(1)[0][0] if kinds else (0, "")
    records, problems = [], []
    for reading in readings:
        pair, image, mask = reading.pair, reading.image, reading.mask
        errors = [(pair.image, reason) for reason in _image_errors(image, usual)]
        counts, sides = np.zeros((1, 3, 3), np.int64), np.zeros(0, np.int64)
        if pair.mask is not None:
            reasons, counts, sides = _mask_errors(image, mask, encoding, rejected.get(pair.mask, ""))
            errors += [(pair.mask, reason) for reason in reasons]
        problems += [Problem("error", _relative(path, root), reason) for path, reason in errors]
        is_understood = pair.mask is None or encoding is not None
        if not errors and is_understood and isinstance(image, ImageFacts) and not isinstance(mask, str):
            if mask is None and encoding is not None:
                counts = np.zeros((len(encoding.values) + 1, 3, 3), np.int64)
            records.append(Record(reading.split, pair.name, image, mask, counts, sides))
    return records, usual[0], problems


def _image_errors(image: ImageFacts | str, usual: tuple[int, str]) -> list[str]:
    if isinstance(image, str):
        return [image]
    errors = []
    if image.channels != usual[0]:
        errors.append(
            f"the image has a channel count of {image.channels}, but most have {usual[0]}; convert it to {usual[0]}"
        )
    elif image.dtype != usual[1]:
        errors.append(f"the image is {image.dtype}, but most are {usual[1]}; convert it to {usual[1]}")
    if not all(map(math.isfinite, (*image.means, *image.variances))):
        errors.append("the image holds values that are not finite, but numbers are needed; replace NaN and infinity")
    return errors


def _mask_errors(
    image: ImageFacts | str, mask: MaskFacts | str | None, encoding: MaskEncoding | None, rejection: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    counts, sides = np.zeros((1, 3, 3), np.int64), np.zeros(0, np.int64)
    if mask is None or isinstance(mask, str):
        return [mask] if mask else [], counts, sides
    errors = []
    if isinstance(image, ImageFacts) and (image.height, image.width) != (mask.height, mask.width):
        errors.append(size_mismatch((image.height, image.width), (mask.height, mask.width)))
    if rejection:
        errors.append(rejection)
    elif encoding is not None:
        try:
            counts, sides = count_classes(mask, encoding)
        except ValueError as error:
            errors.append(str(error))
    return errors, counts, sides


def _folder_problems(folder: Folder) -> list[Problem]:
    problems = []
    for path in folder.unpaired:
        message = "no partner of the same name was found, so the file is left out; add it, or remove this file"
        if path.is_dir():
            message = "no masks were found for these images, so they are left out; add masks, or remove the folder"
        problems.append(Problem("warning", _relative(path, folder.root), message))
    for group in folder.ambiguous:
        others = ", ".join(_relative(path, folder.root) for path in group[1:])
        message = f"{others} has the same name, so neither is used; remove one"
        problems.append(Problem("warning", _relative(group[0], folder.root), message))
    if "train" in folder.splits and "val" not in folder.splits:
        problems.append(Problem("warning", ".", "one pair is too few to keep a part for validation; add pairs"))
    return problems


def _shown(records: Sequence[Record], splits: dict[str, tuple[Pair, ...]]) -> dict[Pair, tuple[int, ...]]:
    """Classes that each pair shows; the counts end with those of void."""
    shown = {(r.split, r.name): np.flatnonzero(r.counts[:-1].any(axis=(1, 2))).tolist() for r in records}
    return {pair: tuple(shown[split, pair.name]) for split, pairs in splits.items() for pair in pairs}


def _leaks(records: Sequence[Record], dataset: Dataset) -> list[Problem]:
    files = {
        (split, p.name): _relative(p.image, dataset.root) for split, pairs in dataset.splits.items() for p in pairs
    }
    first: dict[str, Record] = {}
    problems = []
    for record in records:
        twin = first.setdefault(record.image.digest, record)
        if twin.split != record.split:
            message = (
                f"the same picture is in {twin.split} as {files[twin.split, twin.name]}, "
                "so scores would be too good; remove one of them"
            )
            problems.append(Problem("warning", files[record.split, record.name], message))
    return problems


def _class_problems(records: Sequence[Record], statistics: Statistics, dataset: Dataset) -> list[Problem]:
    if dataset.classes is None or not any(record.mask for record in records):
        return []
    masks = {(split, p.name): p.mask for split, pairs in dataset.splits.items() for p in pairs}
    problems = []
    for label, share in enumerate(statistics.class_shares):
        if share == 0 and "train" in dataset.splits:
            message = f"class {label} '{dataset.classes.names[label]}' is in no training mask and cannot be learned; "
            problems.append(Problem("warning", ".", message + "add masks that show it, or remove it from the names"))
    for record in records:
        mask = masks[record.split, record.name]
        if mask is not None and not record.counts[:-1].any():
            message = "the mask is void everywhere and teaches nothing; label it, or remove the pair"
            problems.append(Problem("warning", _relative(mask, dataset.root), message))
    num_chosen = statistics.num_pairs.get("train", len(records))
    if 2 * statistics.num_empty > num_chosen:
        message = (
            f"{statistics.num_empty} of {num_chosen} masks show only class 0 '{dataset.classes.names[0]}'; "
            "check that the masks are finished"
        )
        problems.append(Problem("warning", ".", message))
    return problems


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _plain(content: Any) -> Any:  # noqa: ANN401 - JSON has no type
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content
