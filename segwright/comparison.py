"""Which of several segmenters is better on the same images, and whether that is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from segwright.evaluation import Counted, Evaluation
from segwright.run_folder import evaluation_file, kept_file
from segwright.types import Classes
from segwright.uncertainty import Difference, Score, adjust_p_values, bootstrap_interval, paired_difference


@dataclass(frozen=True)
class Compared:
    """One segmenter of a comparison.

    Attributes:
        name: As the caller gave it.
        score: Of the whole set.
        difference: To the first segmenter, which has none; its p-value is raised for the number of comparisons.
        by_class: The score of each class that the mean is made of; empty if the score is no mean over classes.
        seconds_per_image: Median time of one prediction.
    """

    name: str
    score: Score
    difference: Difference | None
    by_class: Float64[np.ndarray, "K"]
    seconds_per_image: float


@dataclass(frozen=True)
class Comparison:
    """Several segmenters on the same images.

    Attributes:
        score: Name of the score that they are compared by.
        protocol: How it came about, the same for all.
        split: Part of the data set.
        num_images: Number of images.
        classes: Names and colors of the classes.
        rows: The segmenters in the order given.
    """

    score: str
    protocol: str
    split: str
    num_images: int
    classes: Classes
    rows: tuple[Compared, ...]


_CLASS_SCORES = {"miou": "iou", "mean_dice": "dice", "mean_accuracy": "recall"}


def compare(evaluations: Mapping[str, Evaluation], score: str = "miou") -> Comparison:
    """Compare segmenters by a score of the whole set.

    Each one after the first is compared with the first by a paired test over images, see
    `uncertainty.paired_difference`; p-values are adjusted for the number of comparisons.

    Args:
        evaluations: Two or more evaluations by the name to show.
        score: One number a set, such as "miou", "mean_dice" or a mean of a further metric.

    Raises:
        ValueError: If there are fewer than two, or they are of other images, masks, classes or protocols, or one lacks
            the score.
    """
    if len(evaluations) < 2:
        raise ValueError(f"{len(evaluations)} evaluation came, but a comparison needs two or more; give more runs")
    (first_name, first), *others = evaluations.items()
    for name, other in others:
        _refuse_unlike(first_name, first, name, other)
    counted = {name: _counted(evaluation, score, name) for name, evaluation in evaluations.items()}
    metric = counted[first_name].metric(len(first.classes))
    for name, found in counted.items():
        theirs = found.metric(len(first.classes)).protocol
        if theirs != metric.protocol:
            raise ValueError(
                f"{score} of {first_name} and of {name} follow other protocols ('{metric.protocol}' and '{theirs}'); "
                "evaluate both in the same way"
            )

    def statistic(sums: np.ndarray) -> Float64[np.ndarray, "R"]:
        return metric.scores(sums)[score]

    base = counted[first_name].counts
    differences = [paired_difference(base, counted[name].counts, statistic) for name, _ in others]
    adjusted = adjust_p_values([difference.p_value for difference in differences])
    fair = [
        Difference(difference.value, difference.low, difference.high, p_value)
        for difference, p_value in zip(differences, adjusted, strict=True)
    ]
    rows = []
    for (name, evaluation), difference in zip(evaluations.items(), [None, *fair], strict=True):
        counts = counted[name].counts
        scores = metric.scores(counts.sum(axis=0))
        low, high = bootstrap_interval(counts, statistic)
        total = Score(scores[score], low, high, score in metric.lower_is_better, score in metric.distances)
        of_classes = scores.get(_CLASS_SCORES.get(score, score.removeprefix("mean_")), np.zeros(0))
        by_class = of_classes if of_classes.ndim == 1 else np.zeros(0)
        rows.append(Compared(name, total, difference, by_class, evaluation.seconds_per_image))
    _refuse_other_classes(rows, first.classes)
    protocol = f"{metric.protocol} Predicted with {first.setting}."
    return Comparison(score, protocol, first.split, len(first.names), first.classes, tuple(rows))


def _refuse_other_classes(rows: Sequence[Compared], classes: Classes) -> None:
    """Refuse means over different classes: a segmenter that misses a hard class would look better for it."""
    first, *others = rows
    for row in others:
        differing = np.flatnonzero(np.isnan(first.by_class) != np.isnan(row.by_class))
        if len(differing):
            name = classes.names[differing[0]]
            raise ValueError(
                f"{first.name} and {row.name} are not scored on the same classes: one has no score for '{name}', so "
                "that their means mean different things; compare by another score, such as miou"
            )


def load_evaluations(runs: Sequence[Path], split: str) -> dict[str, Evaluation]:
    """Evaluations that runs hold of a split, by the shortest names that tell the runs apart.

    Raises:
        ValueError: If a run holds none.
    """
    found = {}
    for name, run in zip(_short_names(runs), runs, strict=True):
        kept = run / kept_file(split)
        file = kept if kept.is_file() else run / evaluation_file(split)
        if not file.is_file():
            raise ValueError(
                f"{run} holds no evaluation of the split {split}; make one with: segwright evaluate {run} DATA "
                f"--split {split} --keep"
            )
        found[name] = Evaluation.load(file)
    return found


def _short_names(runs: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart.

    Raises:
        ValueError: If two paths are the same.
    """
    whole = [run.resolve().parts for run in runs]
    if len(set(whole)) < len(whole):
        raise ValueError(f"{runs[0]} and the others name one run twice; give different runs")
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(place[-length:]) for place in whole]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _refuse_unlike(first_name: str, first: Evaluation, name: str, other: Evaluation) -> None:
    """Refuse to compare scores that mean different things."""
    if first.classes.names != other.classes.names:
        found = [", ".join(evaluation.classes.names) for evaluation in (first, other)]
        raise ValueError(
            f"{first_name} knows the classes {found[0]}, but {name} {found[1]}; compare segmenters of the same classes"
        )
    if first.split != other.split or first.names != other.names:
        only = sorted(set(first.names) ^ set(other.names))
        what = f"for instance {only[0]} is in one of them only" if only else f"{first.split} and {other.split}"
        raise ValueError(
            f"{first_name} and {name} were evaluated on other images ({what}); evaluate both on the same data and split"
        )
    if first.setting != other.setting:
        raise ValueError(
            f"{first_name} was predicted with '{first.setting}', but {name} with '{other.setting}'; evaluate both in "
            "the same way"
        )
    pixels = [evaluation.confusions.sum(axis=2) for evaluation in (first, other)]
    differing = np.flatnonzero((pixels[0] != pixels[1]).any(axis=1))
    if len(differing):
        raise ValueError(
            f"the mask of {first.names[differing[0]]} was another one when {first_name} was evaluated than for {name}; "
            "evaluate both on the data as it is now"
        )


def _counted(evaluation: Evaluation, score: str, name: str) -> Counted:
    """The metric that has a score of one number a set."""
    known = []
    for counted in evaluation.counted:
        part = counted.metric(len(evaluation.classes))
        overall = [key for key, value in part.scores(counted.counts.sum(axis=0)).items() if value.ndim == 0]
        if score in overall:
            return counted
        known += overall
    raise ValueError(f"{name} has no score '{score}'; it has: {', '.join(known)}")
