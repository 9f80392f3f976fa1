"""The page of a run, from what its folder holds."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segwright.data.folder import Dataset
from segwright.data.folds import find_fold
from segwright.evaluation import Evaluation
from segwright.inference.engine import Engine
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.metrics.confusion import mean_iou, pixel_accuracy
from segwright.recipe import Recipe, load_recipe
from segwright.report.content import Example, ImageScore, Report, Scores, Timing
from segwright.report.html import write_report
from segwright.run_folder import DATA, ENVIRONMENT, RECIPE, REPORT, SEGMENTER, evaluation_file
from segwright.runtimes.torch import TorchEngine
from segwright.training.logs import read_rows

NUM_EXAMPLES = 4


def write_run_report(folder: Path) -> Path | None:
    """Write `report.html` into a run folder; None if the run had no validation images to report on.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    if not (folder / SEGMENTER).is_dir():
        raise ValueError(f"{folder} holds no segmenter yet; train it, or finish it with --resume {folder}")
    if not (folder / "log.csv").is_file():
        raise ValueError(f"{folder} holds several runs; give the folder of one of them, such as {folder / 'fold-1'}")
    if not (folder / evaluation_file("val")).is_file():
        return None
    evaluation = Evaluation.load(folder / evaluation_file("val"))
    history, data = read_rows(folder / "log.csv"), json.loads((folder / DATA).read_text(encoding="utf-8"))
    images = [
        ImageScore(name, float(mean_iou(confusion)), float(pixel_accuracy(confusion)))
        for name, confusion in zip(evaluation.names, evaluation.confusions, strict=True)
    ]
    order = sorted((image.mean_iou, number) for number, image in enumerate(images) if not math.isnan(image.mean_iou))
    worst = [number for _, number in order[:NUM_EXAMPLES]]
    best = [number for _, number in reversed(order[-NUM_EXAMPLES:]) if number not in worst]
    recipe = load_recipe(folder / RECIPE)
    engine = TorchEngine(Segmenter.load(folder), precision=recipe.train.precision)
    report = Report(
        title=folder.resolve().name,
        scores=Scores.of(evaluation.confusions, evaluation.classes, evaluation.protocol),
        images=images,
        worst=_examples(engine, evaluation, images, worst, recipe),
        best=_examples(engine, evaluation, images, best, recipe),
        history=history,
        validation=read_rows(folder / "validation.csv"),
        timing=_timing(evaluation, history),
        recipe=(folder / RECIPE).read_text(encoding="utf-8"),
        data=data,
        environment=json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8")),
        segmenter=str(folder / SEGMENTER),
    )
    write_report(folder / REPORT, report)
    return folder / REPORT


def _examples(
    engine: Engine, evaluation: Evaluation, images: Sequence[ImageScore], numbers: Sequence[int], recipe: Recipe
) -> list[Example]:
    """Images to look at, predicted once more; their masks are read as in training."""
    found, description = find_fold(Path(recipe.data), recipe.train.held_out), engine.description
    pairs = {pair.name: pair for pair in found.splits.get(evaluation.split, ())}
    dataset = Dataset(found.root, found.layout, description.classes, description.encoding, found.splits)
    examples = []
    for number in numbers:
        if images[number].name not in pairs:
            continue  # removed since the run
        sample = dataset.read(pairs[images[number].name])
        assert sample.mask is not None
        predicted = predict_image(engine, sample.image).mask
        examples.append(Example(sample.name, sample.image, sample.mask, predicted, images[number].mean_iou))
    return examples


def _timing(evaluation: Evaluation, history: Sequence[dict[str, float]]) -> Timing:
    if not history:
        return Timing(prediction_ms=1000 * evaluation.seconds_per_image)
    return Timing(
        train_minutes=history[-1]["elapsed_s"] / 60,
        images_per_s=float(np.median([row["images_per_s"] for row in history])),
        waiting_share=float(np.mean([row["waiting_share"] for row in history])),
        prediction_ms=1000 * evaluation.seconds_per_image,
    )
