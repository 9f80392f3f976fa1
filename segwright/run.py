"""Trains a recipe: builds the parts, calls the loop, keeps the best segmenter. The one place that wires everything."""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn
from torch.multiprocessing.spawn import ProcessException

from segwright import parts
from segwright.data.batches import Batches
from segwright.data.folder import Pair
from segwright.data.inspection import Inspection, inspect
from segwright.evaluation import evaluate
from segwright.inference.description import Description
from segwright.inference.segmenter import Segmenter, build_network
from segwright.layers.batch_norm import synchronize_batch_norm
from segwright.layers.hardware import choose_device, has_bf16
from segwright.planning.plan import Plan, complete
from segwright.recipe import Recipe
from segwright.run_folder import CHECKPOINT, EVALUATION, SEGMENTER, write_start
from segwright.training.average import WeightAverage
from segwright.training.budget import Budget
from segwright.training.logs import RunLog
from segwright.training.loop import LoopSettings, fit
from segwright.training.state import Training
from segwright.training.view import RunView

SHOWN_WARNINGS = 3
REPORT_S = 8.0
"""Seconds kept for the report when a run is limited by minutes."""


@dataclass(frozen=True)
class Run:
    """A run and what it left.

    Attributes:
        folder: Where everything is.
        is_finished: Whether it reached its limit; otherwise it can be resumed.
        best_miou: Best validation mIoU; -1 without validation images.
    """

    folder: Path
    is_finished: bool
    best_miou: float


def train(
    recipe: Recipe, folder: Path | str, *, resume: bool = False, quiet: bool = True, started: float | None = None
) -> Run:
    """Train a recipe in a run folder.

    The folder then holds `recipe.yaml` (resolved), `data.json` (what the data is), `environment.json`, `log.csv` and
    `validation.csv`, TensorBoard events, `checkpoint.pt`, the best segmenter in `segmenter/` and its evaluation.

    Args:
        recipe: What to train on what.
        folder: Folder of the run; made if it is missing.
        resume: Go on from the folder's checkpoint, or from the start if it has none yet.
        quiet: Draw nothing in the terminal.
        started: `time.monotonic()` from which on minutes count; now by default.

    Raises:
        ValueError: If the data cannot be trained on, the recipe asks for hardware that is absent, or the folder
            already holds a run that is not to be resumed.
    """
    started, folder = time.monotonic() if started is None else started, Path(folder)
    console = Console(quiet=quiet)
    _check_hardware(recipe)
    with console.status("Reading the data"):
        inspection = inspect(Path(recipe.data))
    inspection.refuse_errors()
    if not _training_pairs(inspection):
        raise ValueError(f"{recipe.data} has no training images with masks; segwright inspect {recipe.data} tells more")
    plan = complete(recipe, inspection, is_resumed=resume)
    recipe = plan.recipe
    write_start(folder, recipe.to_yaml(), inspection.to_json(), is_resumed=resume)
    _say_start(plan, inspection, folder, console)
    work = partial(_work, recipe=recipe, inspection=inspection, folder=folder, started=started, quiet=quiet)
    fabric = _make_fabric(recipe)
    is_finished, best_miou = work(fabric) if recipe.train.devices == 1 else _launch(fabric, work)
    return Run(folder, is_finished, best_miou)


def _launch(fabric: Fabric, work: Callable[[Fabric], tuple[bool, float]]) -> tuple[bool, float]:
    """Run `work` in as many processes as the recipe asks for; the first one's result."""
    # Ctrl-C reaches every process; those that train finish their step, and this one has to wait for them.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result: tuple[bool, float] = fabric.launch(work)
    except ProcessException as error:
        # Its text is the traceback of the process; the last line says what was wrong.
        raise RuntimeError(str(error).strip().splitlines()[-1]) from error
    finally:
        signal.signal(signal.SIGINT, before)
    return result


def _check_hardware(recipe: Recipe) -> None:
    """Refuse hardware that is absent before any image is read."""
    section = recipe.train
    kind = choose_device(section.device).type
    if kind == "cuda" and section.devices > torch.cuda.device_count():
        raise ValueError(
            f"train.devices is {section.devices}, but this machine has {torch.cuda.device_count()} GPUs; give at most "
            "that many"
        )
    if section.deterministic and kind == "cuda":
        raise ValueError("train.deterministic works on the CPU only; add --device cpu, or leave it out")


def _make_fabric(recipe: Recipe) -> Fabric:
    section = recipe.train
    kind = choose_device(section.device).type
    is_bf16 = section.precision == "bf16" or (section.precision == "auto" and has_bf16(torch.device(kind)))
    # Fabric announces the precision by itself, in words that say less than ours.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if section.deterministic:
        torch.use_deterministic_algorithms(True)
    return Fabric(
        accelerator=kind,
        devices=section.devices,
        strategy="ddp_spawn" if section.devices > 1 else "auto",
        precision="bf16-mixed" if is_bf16 else "32-true",
    )


def _say_start(plan: Plan, inspection: Inspection, folder: Path, console: Console) -> None:
    dataset, recipe = inspection.dataset, plan.recipe
    assert dataset.classes is not None
    assert dataset.encoding is not None
    counts = ", ".join(f"{len(pairs)} {name}" for name, pairs in dataset.splits.items() if pairs)
    crop = "x".join(str(side) for side in recipe.transform.get("crop") or ())
    warnings = [f"{problem.file}: {problem.message}" for problem in inspection.problems]
    lines = [
        f"Data      {recipe.data}: {counts}; {dataset.channels} channels, {len(dataset.classes)} classes",
        f"Masks     {dataset.encoding.describe(dataset.classes)}",
        *(f"Note      {note}" for note in (*inspection.notes, *plan.notes)),
        *(f"Warning   {warning}" for warning in warnings[:SHOWN_WARNINGS]),
        f"Training  {recipe.network['name']}, crops of {crop}, {recipe.train.batch_size} images a batch",
        f"Run       {folder}",
    ]
    if len(warnings) > SHOWN_WARNINGS:
        lines.insert(-2, f"          {len(warnings) - SHOWN_WARNINGS} more warnings: segwright inspect {recipe.data}")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _work(
    fabric: Fabric, recipe: Recipe, inspection: Inspection, folder: Path, started: float, quiet: bool
) -> tuple[bool, float]:
    """What each process of a run does: whether the run finished, and its best score."""
    console = Console(quiet=quiet or not fabric.is_global_zero)
    torch.manual_seed(recipe.train.seed)
    segmenter = _make_segmenter(recipe, inspection)
    encoder = next((module for module in segmenter.network.modules() if hasattr(module, "weights_used")), None)
    if encoder is not None:
        console.print(f"Encoder   {encoder.weights_used}", highlight=False, soft_wrap=True)
    if fabric.world_size > 1:
        segmenter.network = synchronize_batch_norm(segmenter.network)
    training = _make_training(fabric, recipe, inspection, segmenter, folder, started)
    log = RunLog(folder, training.state.step) if fabric.is_global_zero else None
    with RunView(console) as view, _stop_on_signal(training):
        fit(training, _loop_settings(recipe), _Keeper(training, inspection, folder, recipe), _Record(log, view))
    if log:
        log.close()
    return not training.stopping, training.state.best_miou


def _make_segmenter(recipe: Recipe, inspection: Inspection) -> Segmenter:
    arguments = {key: value for key, value in recipe.network.items() if key != "name"}
    dataset = inspection.dataset
    assert dataset.classes is not None
    assert dataset.encoding is not None
    description = Description(
        network=recipe.network["name"],
        arguments=arguments,
        classes=dataset.classes,
        encoding=dataset.encoding,
        in_channels=dataset.channels,
        dtype=next(iter(inspection.statistics.dtypes)),
        mean=inspection.statistics.channel_means,
        std=inspection.statistics.channel_deviations,
        recipe=recipe.model_dump(mode="json"),
    )
    network = build_network(description, weights=arguments.get("weights", "none"))
    return Segmenter(network, description).to(memory_format=torch.channels_last)


def _make_training(
    fabric: Fabric, recipe: Recipe, inspection: Inspection, segmenter: Segmenter, folder: Path, started: float
) -> Training:
    section = recipe.train
    optimizer_part, schedule_part, method_part = dict(recipe.optimizer), dict(recipe.schedule), dict(recipe.method)
    losses = {
        name: (arguments["weight"], _make_loss(name, arguments, inspection)) for name, arguments in recipe.loss.items()
    }
    method = parts.build("method", method_part.pop("name"), method_part, network=segmenter, losses=losses)
    optimizer = parts.build("optimizer", optimizer_part.pop("name"), optimizer_part, network=segmenter)
    average = WeightAverage(segmenter) if section.average else None
    method, optimizer = fabric.setup(method, optimizer)
    if average:
        average.network.to(fabric.device)
    steps = section.steps
    if section.epochs is not None:
        assert section.batch_size is not None
        steps = max(
            1, round(section.epochs * len(_training_pairs(inspection)) / (section.batch_size * section.accumulate))
        )
    training = Training(
        fabric=fabric,
        network=segmenter,
        method=method,
        optimizer=optimizer,
        schedule=parts.build("schedule", schedule_part.pop("name"), schedule_part),
        budget=Budget(steps, None if section.minutes is None else 60 * section.minutes, started, reserve_s=REPORT_S),
        checkpoint=folder / CHECKPOINT,
        average=average,
    )
    if training.checkpoint.is_file():
        training.restore()
    training.source = _make_batches(fabric, recipe, inspection, training.state.step * section.accumulate)
    return training


def _training_pairs(inspection: Inspection) -> list[Pair]:
    return [pair for pair in inspection.dataset.splits.get("train", ()) if pair.mask is not None]


def _make_loss(name: str, arguments: Mapping[str, Any], inspection: Inspection) -> nn.Module:
    given = {key: value for key, value in arguments.items() if key != "weight"}
    loss: nn.Module = parts.build("loss", name, given, class_shares=inspection.statistics.class_shares)
    return loss


def _make_batches(fabric: Fabric, recipe: Recipe, inspection: Inspection, start: int) -> Batches:
    transform_part = dict(recipe.transform)
    assert recipe.train.batch_size is not None
    return Batches(
        inspection.dataset,
        _training_pairs(inspection),
        parts.build("transform", transform_part.pop("name"), transform_part),
        batch_size=recipe.train.batch_size,
        start=start,
        seed=recipe.train.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        threads=recipe.train.threads,
    )


def _loop_settings(recipe: Recipe) -> LoopSettings:
    section = recipe.train
    assert section.batch_size is not None
    return LoopSettings(
        batch_size=section.batch_size,
        accumulate=section.accumulate,
        clip_norm=section.clip_norm,
        validations=section.validations,
        patience=section.patience,
        checkpoint_s=section.checkpoint_s,
        log_s=section.log_s,
        finish_s=REPORT_S,
    )


class _Keeper:
    """Scores a network on the validation images and keeps the best one as the run's segmenter."""

    def __init__(self, training: Training, inspection: Inspection, folder: Path, recipe: Recipe) -> None:
        self._training, self._dataset, self._folder = training, inspection.dataset, folder
        self._precision = recipe.train.precision
        self._has_validation = any(pair.mask for pair in inspection.dataset.splits.get("val", ()))

    def __call__(self, network: nn.Module) -> Mapping[str, float] | None:
        assert isinstance(network, Segmenter)
        network.eval()
        if not self._has_validation:
            network.save(self._folder / SEGMENTER)
            return None
        evaluation = evaluate(network, self._dataset, "val", precision=self._precision)
        if math.isnan(evaluation.miou):  # all masks are void: there is nothing to choose by
            network.save(self._folder / SEGMENTER)
            return None
        if evaluation.miou > self._training.state.best_miou:
            network.description = replace(network.description, scores=evaluation.scores())
            network.save(self._folder / SEGMENTER)
            evaluation.save(self._folder / EVALUATION)
        scores = evaluation.scores(intervals=False)
        return {key: scores[key] for key in ("miou", "mean_dice", "pixel_accuracy")}


@dataclass(frozen=True)
class _Record:
    """Passes what the loop reports to the log and to the view."""

    log: RunLog | None
    view: RunView

    def phase(self, name: str) -> None:
        self.view.phase(name)

    def step(self, row: Mapping[str, float], remaining_s: float | None) -> None:
        if self.log:
            self.log.step(row)
        self.view.step(row, remaining_s)

    def validation(self, row: Mapping[str, float], is_best: bool) -> None:
        if self.log:
            self.log.validation(row)
        self.view.validation(row, is_best)


@contextmanager
def _stop_on_signal(training: Training) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the step finish and the checkpoint be written; the second one stops at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if training.is_signaled:
            raise KeyboardInterrupt
        training.is_signaled = True

    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread only
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
