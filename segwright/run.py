"""Trains a recipe: builds the parts, calls the loop, keeps the best segmenter. The one place that wires everything."""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import nn

from segwright.building import (
    loop_settings,
    make_losses,
    make_segmenter,
    make_training,
    make_transform,
    training_pairs,
)
from segwright.data.inspection import Inspection, inspect
from segwright.data.keeping import keep_pairs
from segwright.evaluation import Evaluation, evaluate, join
from segwright.inference.predictor import Predictor
from segwright.inference.segmenter import Segmenter
from segwright.layers.batch_norm import synchronize_batch_norm
from segwright.layers.hardware import choose_device, uses_bf16
from segwright.layers.processes import gather_objects
from segwright.planning.plan import Plan, complete
from segwright.recipe import Recipe, load_recipe
from segwright.run_folder import RECIPE, SAMPLES, SEGMENTER, evaluation_file, write_start
from segwright.runtimes.torch import TorchEngine
from segwright.training.launch import Group, find_group, launch, make_fabric, of_first
from segwright.training.logs import RunLog
from segwright.training.loop import fit
from segwright.training.state import Training
from segwright.training.trackers import Tracker, import_tracker
from segwright.training.view import RunView

SHOWN_WARNINGS = 3


@dataclass(frozen=True)
class Run:
    """A run and what it left.

    Attributes:
        folder: Where everything is.
        is_finished: Whether it reached its limit; otherwise it can be resumed.
        best_miou: Best validation mIoU; -1 without validation images.
        is_first: Whether this is the process that writes, of those that torchrun or SLURM started.
    """

    folder: Path
    is_finished: bool
    best_miou: float
    is_first: bool = True


def train(
    recipe: Recipe, folder: Path | str, *, resume: bool = False, quiet: bool = True, started: float | None = None
) -> Run:
    """Train a recipe in a run folder.

    The folder then holds `recipe.yaml` (resolved), `data.json` (what the data is), `environment.json`, `log.csv` and
    `validation.csv`, TensorBoard events, `checkpoint.pt`, the best segmenter in `segmenter/` and its evaluation, and in
    `samples/` a few validation images, which exports are proved on when the data is gone.

    Args:
        recipe: What to train on what.
        folder: Folder of the run; made if it is missing.
        resume: Go on from the folder's checkpoint, or from the start if it has none yet.
        quiet: Draw nothing in the terminal.
        started: `time.monotonic()` from which on minutes count; now by default.

    Raises:
        ValueError: If the data cannot be trained on, the recipe asks for hardware or a tracker that is absent, or the
            folder already holds a run that is not to be resumed.
    """
    started, group = time.monotonic() if started is None else started, find_group()
    if group is not None:
        recipe, quiet = recipe.with_values({"train.devices": group.size}), quiet or group.rank > 0
    _check_hardware(recipe, group)
    kind = choose_device(recipe.train.device).type
    prepare = partial(_prepare, recipe, Path(folder), resume, Console(quiet=quiet))
    plan, inspection, folder = prepare() if group is None else of_first(kind, group, prepare)
    section = plan.recipe.train
    is_bf16 = uses_bf16(section.precision, torch.device(kind))
    _check_sharding(plan.recipe, group)  # a run that goes on has its own recipe
    fabric = make_fabric(
        kind,
        section.devices,
        group,
        is_bf16=is_bf16,
        deterministic=section.deterministic,
        shard=section.shard,
    )
    work = partial(_work, recipe=plan.recipe, inspection=inspection, folder=folder, started=started, quiet=quiet)
    is_finished, best_miou = launch(fabric, group, work)
    return Run(folder, is_finished, best_miou, is_first=group is None or group.rank == 0)


def _prepare(recipe: Recipe, folder: Path, resume: bool, console: Console) -> tuple[Plan, Inspection, Path]:
    """Read the data, plan, and write what a run starts with; a run that has begun keeps its recipe."""
    is_begun = resume and (folder / RECIPE).is_file()
    if is_begun:
        recipe = load_recipe(folder / RECIPE).with_values({"train.devices": recipe.train.devices})
    if recipe.train.folds is not None and recipe.train.fold is None:
        raise ValueError("train.folds asks for several runs; use cross_validate, or give the one part in train.fold")
    if recipe.train.tracker != "none":
        import_tracker(recipe.train.tracker)  # one that is missing is refused before any image is read
    with console.status("Reading the data"):
        inspection = inspect(Path(recipe.data), fold=recipe.train.held_out)
    inspection.refuse_errors()
    if not training_pairs(inspection):
        raise ValueError(f"{recipe.data} has no training images with masks; segwright inspect {recipe.data} tells more")
    plan = complete(recipe, inspection, is_resumed=is_begun)
    make_transform(plan.recipe)  # a wrong value of it or of a loss leaves no folder behind
    make_losses(plan.recipe, inspection)
    write_start(folder, plan.recipe.to_yaml(), inspection.to_json(), is_resumed=resume)
    if not is_begun:
        keep_pairs(inspection.dataset.splits.get("val") or training_pairs(inspection), folder / SAMPLES)
    _say_start(plan, inspection, folder, console)
    return plan, inspection, folder


def _check_hardware(recipe: Recipe, group: Group | None) -> None:
    """Refuse hardware that is absent before any image is read."""
    section = recipe.train
    kind = choose_device(section.device).type
    here = section.devices if group is None else section.devices // group.nodes
    if kind == "cuda" and here > torch.cuda.device_count():
        raise ValueError(
            f"train.devices is {here}, but this machine has {torch.cuda.device_count()} GPUs; give at most that many"
        )
    _check_sharding(recipe, group)
    if section.deterministic and kind == "cuda":
        raise ValueError("train.deterministic works on the CPU only; add --device cpu, or leave it out")


def _check_sharding(recipe: Recipe, group: Group | None) -> None:
    """Refuse to spread weights over one process."""
    if recipe.train.shard and group is None:
        raise ValueError(
            "train.shard spreads weights over the processes of torchrun or SLURM, but this one is alone; start it with "
            "torchrun --nproc-per-node N -m segwright.cli train …, or leave train.shard out"
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
    segmenter = make_segmenter(recipe, inspection)
    encoder = next((module for module in segmenter.network.modules() if hasattr(module, "weights_used")), None)
    if encoder is not None:
        console.print(f"Encoder   {encoder.weights_used}", highlight=False, soft_wrap=True)
    if fabric.world_size > 1:
        segmenter.network = synchronize_batch_norm(segmenter.network)
    training = make_training(fabric, recipe, inspection, segmenter, folder, started)
    with _open_logs(training, recipe, folder) as logs, RunView(console) as view, _stop_on_signal(training):
        fit(training, loop_settings(recipe), _Keeper(training, inspection, folder, recipe), _Record(logs, view))
    return not training.stopping, training.state.best_miou


@contextmanager
def _open_logs(training: Training, recipe: Recipe, folder: Path) -> Iterator[Sequence[RunLog | Tracker]]:
    """What the first process writes the rows of a run to, closed however the run ends; nothing on the others."""
    with ExitStack() as stack:
        logs: list[RunLog | Tracker] = []
        if training.fabric.is_global_zero:
            logs.append(stack.enter_context(closing(RunLog(folder, training.state.step))))
            if recipe.train.tracker != "none":
                tracker = Tracker(recipe.train.tracker, folder, recipe.model_dump(mode="json"))
                logs.append(stack.enter_context(tracker))
        yield logs


class _Keeper:
    """Scores a network on the validation images and keeps the best one as the run's segmenter.

    Processes share the images; all of them get the scores of the whole, and the first one writes.
    """

    def __init__(self, training: Training, inspection: Inspection, folder: Path, recipe: Recipe) -> None:
        self._training, self._dataset, self._folder = training, inspection.dataset, folder
        self._precision = recipe.train.precision
        self._has_validation = any(pair.mask for pair in inspection.dataset.splits.get("val", ()))

    def __call__(self, network: nn.Module) -> Mapping[str, float] | None:
        assert isinstance(network, Segmenter)
        network.eval()
        if not self._has_validation:
            self._save(network)
            return None
        evaluation = self._evaluate(network)
        if math.isnan(evaluation.miou):  # all masks are void: there is nothing to choose by
            self._save(network)
            return None
        if evaluation.miou > self._training.state.best_miou:
            network.description = replace(network.description, scores=evaluation.scores())
            self._save(network)
            if self._training.fabric.is_global_zero:
                evaluation.save(self._folder / evaluation_file("val"))
        scores = evaluation.scores(intervals=False)
        return {key: scores[key] for key in ("miou", "mean_dice", "pixel_accuracy")}

    def _evaluate(self, network: Segmenter) -> Evaluation:
        fabric = self._training.fabric
        share = fabric.global_rank, fabric.world_size
        predictor = Predictor(TorchEngine(network, precision=self._precision))
        own = evaluate(predictor, self._dataset, "val", share=share)
        return own if fabric.world_size == 1 else join(gather_objects(own))

    def _save(self, network: Segmenter) -> None:
        if self._training.fabric.is_global_zero:
            network.save(self._folder / SEGMENTER)


@dataclass(frozen=True)
class _Record:
    """Passes what the loop reports to the logs and to the view."""

    logs: Sequence[RunLog | Tracker]
    view: RunView

    def phase(self, name: str) -> None:
        self.view.phase(name)

    def step(self, row: Mapping[str, float], remaining_s: float | None) -> None:
        for log in self.logs:
            log.step(row)
        self.view.step(row, remaining_s)

    def validation(self, row: Mapping[str, float], is_best: bool) -> None:
        for log in self.logs:
            log.validation(row)
        self.view.validation(row, is_best)

    def warn(self, sentence: str) -> None:
        self.view.warn(sentence)


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
