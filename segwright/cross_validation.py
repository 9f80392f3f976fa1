"""Trains one segmenter for each part of the data that is held out, scores them on all images, and joins them."""

import gc
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from segwright.data.folds import find_fold
from segwright.data.inspection import inspect
from segwright.evaluation import Counted, Evaluation
from segwright.files import write_whole
from segwright.inference.segmenter import Segmenter, make_ensemble
from segwright.planning.plan import complete
from segwright.recipe import Recipe
from segwright.run import train
from segwright.run_folder import RECIPE, SEGMENTER, evaluation_file
from segwright.training.launch import find_group


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


def cross_validate(
    recipe: Recipe, folder: Path, *, resume: bool = False, quiet: bool = True, started: float | None = None
) -> CrossValidation:
    """Train and score once for each of `train.folds` parts; minutes, if they limit the recipe, are shared by the folds.

    What the recipe leaves open is decided once, from all of the data. Each fold is scored once, at its end: a choice
    among several validations would make the score of the held-out images too good.

    Args:
        recipe: What to train on what; that of the folder if the run goes on.
        folder: Where the runs go; it gets the recipe too.
        resume: Go on where an earlier call stopped.
        quiet: Draw nothing in the terminal.
        started: `time.monotonic()` from which on the minutes of the first fold count; now by default.

    Raises:
        ValueError: As `run.train`, and if there are fewer images than folds, the folder is that of another run, or
            torchrun or SLURM started several processes.
    """
    assert recipe.train.folds is not None
    started, folds = time.monotonic() if started is None else started, recipe.train.folds
    if find_group() is not None:
        raise ValueError("folds are trained one after another; start one process, without torchrun or srun")
    if (folder / RECIPE).is_file():
        if not resume:
            raise ValueError(f"{folder} holds a run already; give another folder, or go on with --resume {folder}")
    else:
        recipe = _decide(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECIPE, recipe.to_yaml().encode())
    console = Console(quiet=quiet, highlight=False)
    minutes = None if recipe.train.minutes is None else recipe.train.minutes / folds
    runs = [folder / f"fold-{number}" for number in range(1, folds + 1)]
    for number, run in enumerate(runs, start=1):
        console.print(f"\nFold {number} of {folds}", style="bold")
        part = recipe.with_values({"train.fold": number, "train.minutes": minutes, "train.validations": 1})
        found = train(part, run, resume=resume, quiet=quiet, started=started)
        if not found.is_finished:
            return CrossValidation(folder, False, None, ())
        _free_gpu()
        started = time.monotonic()
    evaluations = [Evaluation.load(run / evaluation_file("val")) for run in runs]
    whole = concatenate(evaluations)
    whole.save(folder / evaluation_file("val"))
    make_ensemble([Segmenter.load(run) for run in runs], whole.scores()).save(folder / SEGMENTER)
    return CrossValidation(folder, True, whole, tuple(evaluation.miou for evaluation in evaluations))


def _decide(recipe: Recipe) -> Recipe:
    """The recipe without open values, for all folds alike."""
    assert recipe.train.folds is not None
    find_fold(Path(recipe.data), (1, recipe.train.folds))  # refuses more folds than images
    inspection = inspect(Path(recipe.data))
    inspection.refuse_errors()
    return complete(recipe, inspection).recipe


def _free_gpu() -> None:
    """Give back what torch keeps of a finished fold, which would count as taken in the plan of the next one."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def concatenate(evaluations: list[Evaluation]) -> Evaluation:
    """One evaluation over the images of several, in the order of their names."""
    first = evaluations[0]
    names = np.concatenate([evaluation.names for evaluation in evaluations])
    order = np.argsort(names, kind="stable")
    counted = tuple(
        Counted(one.name, one.arguments, np.concatenate([part.counted[index].counts for part in evaluations])[order])
        for index, one in enumerate(first.counted)
    )
    seconds = float(np.median([evaluation.seconds_per_image for evaluation in evaluations]))
    return Evaluation(first.split, tuple(map(str, names[order])), counted, first.classes, seconds, first.setting)
