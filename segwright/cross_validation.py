"""Trains one segmenter for each part of the data that is held out, scores them on all images, and joins them."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from segwright.evaluation import Evaluation
from segwright.files import write_whole
from segwright.inference.segmenter import Segmenter, make_ensemble
from segwright.recipe import Recipe
from segwright.run import train
from segwright.run_folder import RECIPE, SEGMENTER, evaluation_file


@dataclass(frozen=True)
class CrossValidation:
    """What cross-validation left.

    Attributes:
        folder: Where everything is: `fold-1`, `fold-2`, … with a run each, and the ensemble in `segmenter`.
        is_finished: Whether all folds reached their limit; otherwise it can be resumed.
        evaluation: Counts of all images, each predicted by the segmenter that did not train on it; None before the end.
        fold_mious: Validation mIoU of each fold.
    """

    folder: Path
    is_finished: bool
    evaluation: Evaluation | None
    fold_mious: tuple[float, ...]


def cross_validate(recipe: Recipe, folder: Path, *, resume: bool = False, quiet: bool = True) -> CrossValidation:
    """Train and score once for each of `train.folds` parts; minutes, if they limit the recipe, are shared by the folds.

    Args:
        recipe: What to train on what.
        folder: Where the runs go; it gets the recipe too.
        resume: Go on where an earlier call stopped.
        quiet: Draw nothing in the terminal.

    Raises:
        ValueError: As `run.train`, and if there are fewer images than folds or the folder is that of another run.
    """
    folds = recipe.train.folds
    assert folds is not None
    if (folder / RECIPE).is_file() and not resume:
        raise ValueError(f"{folder} holds a run already; give another folder, or go on with --resume {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECIPE, recipe.to_yaml().encode())
    console = Console(quiet=quiet, highlight=False)
    minutes = None if recipe.train.minutes is None else recipe.train.minutes / folds
    runs = [folder / f"fold-{number}" for number in range(1, folds + 1)]
    for number, run in enumerate(runs, start=1):
        console.print(f"\nFold {number} of {folds}", style="bold")
        part = recipe.with_values({"train.fold": number, "train.minutes": minutes})
        found = train(part, run, resume=resume and run.exists(), quiet=quiet, started=time.monotonic())
        if not found.is_finished:
            return CrossValidation(folder, False, None, ())
    evaluations = [Evaluation.load(run / evaluation_file("val")) for run in runs]
    whole = concatenate(evaluations)
    whole.save(folder / evaluation_file("val"))
    make_ensemble([Segmenter.load(run) for run in runs], whole.scores()).save(folder / SEGMENTER)
    return CrossValidation(folder, True, whole, tuple(evaluation.miou for evaluation in evaluations))


def concatenate(evaluations: list[Evaluation]) -> Evaluation:
    """One evaluation over the images of several, in the order of their names."""
    first = evaluations[0]
    names = np.concatenate([evaluation.names for evaluation in evaluations])
    order = np.argsort(names)
    counted = tuple(
        type(one)(one.name, one.arguments, np.concatenate([part.counted[index].counts for part in evaluations])[order])
        for index, one in enumerate(first.counted)
    )
    seconds = float(np.median([evaluation.seconds_per_image for evaluation in evaluations]))
    return Evaluation(first.split, tuple(map(str, names[order])), counted, first.classes, seconds, first.setting)
