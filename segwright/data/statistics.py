"""Numbers that describe a data set, from the facts of its files."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segwright.data.encoding import MaskEncoding
from segwright.data.measures import ImageFacts, MaskFacts
from segwright.types import IGNORE_LABEL

IMBALANCE_RATIO = 3.0
"""Classes are called imbalanced if the largest covers more than this many times the pixels of the smallest."""


@dataclass(frozen=True)
class Record:
    """A checked pair: split, name, the facts of its files, and the pixels of each class by place.

    Attributes:
        split: train, val or test.
        name: Name of the pair.
        image: Facts of the image.
        mask: Facts of the mask, if there is one.
        counts: Pixels of each class, and of void last, in 3 x 3 places as in `MaskFacts`, (K + 1, 3, 3); empty without
            a mask.
        sides: Pixel sides at which each class, and void last, meets another, (K + 1,); empty without a mask.
    """

    split: str
    name: str
    image: ImageFacts
    mask: MaskFacts | None
    counts: np.ndarray
    sides: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """What the checked pairs hold. Numbers without a split are of train, or of all pairs if there is no train.

    Attributes:
        num_pairs: By split.
        heights: Smallest, median and largest, in pixels, over all splits.
        widths: The same.
        dtypes: Number of images by type.
        channel_means: Mean of the stored values of each channel.
        channel_deviations: Standard deviation of the stored values of each channel.
        class_shares: Share of the pixels that are not void, in [0, 1]; sums to 1.
        class_presence: Share of the images that show each class, by split.
        class_widths: Typical width of what belongs to each class, in pixels: 2 x area / sides, which is the width of a
            stripe; 0 for a class that does not occur.
        object_width: The same over all classes together.
        is_imbalanced: The largest share is more than `IMBALANCE_RATIO` times the smallest above 0.
        num_empty: Masks that hold nothing but class 0 and void.
        void_share: Share of all pixels that is void.
        vertical_asymmetry: Total-variation distance in [0, 1] of the class shares of top and bottom halves.
        horizontal_asymmetry: The same of left and right halves.
        fingerprint: Hash of splits, names, decoded images and masks.
    """

    num_pairs: dict[str, int]
    heights: tuple[int, float, int]
    widths: tuple[int, float, int]
    dtypes: dict[str, int]
    channel_means: tuple[float, ...]
    channel_deviations: tuple[float, ...]
    class_shares: tuple[float, ...]
    class_presence: dict[str, tuple[float, ...]]
    class_widths: tuple[float, ...]
    object_width: float
    is_imbalanced: bool
    num_empty: int
    void_share: float
    vertical_asymmetry: float
    horizontal_asymmetry: float
    fingerprint: str


def count_classes(mask: MaskFacts, encoding: MaskEncoding) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each class, and of void last, by place, (K + 1, 3, 3), and their sides, (K + 1,).

    Raises:
        ValueError: If the mask holds a value of no class; names the values and counts their pixels.
    """
    labels = np.array(encoding.classes_of(mask.codes.tolist(), is_color=mask.is_color))
    is_unknown = labels < 0
    if is_unknown.any():
        counts = mask.totals[is_unknown].tolist()
        raise ValueError(encoding.explain_unknown(mask.codes[is_unknown].tolist(), counts, is_color=mask.is_color))
    num_classes = len(encoding.values)
    places = np.zeros((num_classes + 1, 3, 3), np.int64)
    sides = np.zeros(num_classes + 1, np.int64)
    rows = np.where(labels == IGNORE_LABEL, num_classes, labels)
    np.add.at(places, rows, mask.counts)
    np.add.at(sides, rows, mask.sides)
    return places, sides


def summarize(records: Sequence[Record], num_classes: int) -> Statistics:
    """Statistics of the pairs that passed every check; zeros where there are none."""
    chosen = [record for record in records if record.split == "train"] or list(records)
    places = sum((record.counts for record in chosen), np.zeros((num_classes + 1, 3, 3), np.int64))
    totals = places[:num_classes].sum(axis=(1, 2))
    sides = sum((record.sides for record in chosen if len(record.sides)), np.zeros(num_classes + 1, np.int64))
    heights, widths = (_range([getattr(record.image, side) for record in records]) for side in ("height", "width"))
    largest = min(heights[1], widths[1])
    shares = _shares(totals)
    present = shares[shares > 0]
    means, deviations = _moments([record.image for record in chosen])
    splits = dict.fromkeys(record.split for record in records)
    return Statistics(
        num_pairs=dict(Counter(record.split for record in records)),
        heights=heights,
        widths=widths,
        dtypes=dict(Counter(record.image.dtype for record in records)),
        channel_means=means,
        channel_deviations=deviations,
        class_shares=tuple(shares.tolist()),
        class_presence={
            split: _presence([r for r in records if r.split == split and r.mask is not None], num_classes)
            for split in splits
        },
        class_widths=tuple(_width(*pair, largest) for pair in zip(totals, sides[:num_classes], strict=True)),
        object_width=_width(totals.sum(), sides[:num_classes].sum(), largest),
        is_imbalanced=bool(len(present) and present.max() > IMBALANCE_RATIO * present.min()),
        num_empty=sum(r.mask is not None and not r.counts[1:num_classes].any() for r in chosen),
        void_share=float(places[num_classes].sum() / max(1, places.sum())),
        vertical_asymmetry=_distance(places[:num_classes, 0].sum(axis=1), places[:num_classes, 2].sum(axis=1)),
        horizontal_asymmetry=_distance(places[:num_classes, :, 0].sum(axis=1), places[:num_classes, :, 2].sum(axis=1)),
        fingerprint=_fingerprint(records),
    )


def _width(pixels: np.int64, sides: np.int64, largest: float) -> float:
    """Width of a stripe with as many pixels and sides; at most that of an image, which has no sides at its border."""
    return min(2 * float(pixels) / float(sides), largest) if sides else largest * bool(pixels)


def _shares(counts: np.ndarray) -> np.ndarray:
    shares: np.ndarray = counts / max(1, counts.sum())
    return shares


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    if not first.any() or not second.any():
        return 0.0
    return float(np.abs(_shares(first) - _shares(second)).sum() / 2)


def _presence(records: Sequence[Record], num_classes: int) -> tuple[float, ...]:
    shown = [record.counts[:num_classes].any(axis=(1, 2)) for record in records]
    return tuple(np.mean(shown, axis=0).tolist()) if shown else (0.0,) * num_classes


def _range(sizes: Sequence[int]) -> tuple[int, float, int]:
    return (min(sizes), float(np.median(sizes)), max(sizes)) if sizes else (0, 0.0, 0)


def _moments(images: Sequence[ImageFacts]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over the pixels of all images."""
    if not images:
        return (), ()
    weights = _shares(np.array([image.height * image.width for image in images], np.float64))
    means = np.array([image.means for image in images])  # N C
    variances = np.array([image.variances for image in images])
    mean = weights @ means
    variance = weights @ (variances + np.square(means - mean))
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def _fingerprint(records: Sequence[Record]) -> str:
    lines = sorted(
        f"{record.split} {record.name} {record.image.digest} {record.mask.digest if record.mask else '-'}\n"
        for record in records
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
