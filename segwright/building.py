"""Builds what a run needs from its recipe: the segmenter, what trains it, the batches."""

import copy
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from segwright import parts
from segwright.data.batches import Batches, Transform
from segwright.data.folder import Pair
from segwright.data.inspection import Inspection
from segwright.data.sampling import make_order
from segwright.inference.cleanup import CleanUp
from segwright.inference.description import Description
from segwright.inference.segmenter import Segmenter, build_network
from segwright.layers.bfloat16 import guard_gradients
from segwright.layers.hardware import uses_bf16
from segwright.recipe import Recipe
from segwright.run_folder import CHECKPOINT
from segwright.training.average import make_average
from segwright.training.budget import Budget
from segwright.training.loop import LoopSettings
from segwright.training.sharding import mesh_of, spread_module
from segwright.training.state import Training

REPORT_S = 8.0
"""Seconds kept for the report when a run is limited by minutes."""


def make_segmenter(recipe: Recipe, inspection: Inspection) -> Segmenter:
    """An untrained segmenter, or one whose encoder has trained weights, of a recipe without open values."""
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
        cleanup=CleanUp(**recipe.cleanup.model_dump()),
        recipe=recipe.model_dump(mode="json"),
    )
    network = build_network(description, weights=arguments.get("weights", "none"))
    return Segmenter(network, description).to(memory_format=torch.channels_last)


def make_training(
    fabric: Fabric, recipe: Recipe, inspection: Inspection, segmenter: Segmenter, folder: Path, started: float
) -> Training:
    """All that changes while the segmenter trains, from the folder's checkpoint if there is one.

    Args:
        fabric: Of this process.
        recipe: A recipe without open values.
        inspection: What the data is.
        segmenter: From `make_segmenter`.
        folder: Folder of the run.
        started: `time.monotonic()` from which on minutes count.
    """
    section = recipe.train
    optimizer_part, schedule_part, method_part = dict(recipe.optimizer), dict(recipe.schedule), dict(recipe.method)
    losses = make_losses(recipe, inspection)
    method = parts.build("method", method_part.pop("name"), method_part, network=segmenter, losses=losses)
    average = make_average(section.average, segmenter)
    whole = copy.deepcopy(segmenter).requires_grad_(False) if section.shard else None
    if fabric.device.type == "cpu" and uses_bf16(section.precision, fabric.device):
        guard_gradients(segmenter)
    if section.compile:
        method.compile()  # in place, so that names of weights stay as they are
    # The optimizer comes after the module, whose setup may put others in the place of its weights.
    method = fabric.setup_module(method)
    made = parts.build("optimizer", optimizer_part.pop("name"), optimizer_part, network=segmenter)
    optimizer = fabric.setup_optimizers(made)
    assert not isinstance(optimizer, tuple)  # there is one
    if average:
        average.network.to(fabric.device)
        if section.shard:
            spread_module(average.network, mesh_of(fabric))
    if whole is not None:
        whole.to(fabric.device)
    steps = section.steps
    if section.epochs is not None:
        assert section.batch_size is not None
        steps = max(
            1, round(section.epochs * len(training_pairs(inspection)) / (section.batch_size * section.accumulate))
        )
    training = Training(
        fabric=fabric,
        network=segmenter,
        method=method,
        optimizer=optimizer,
        schedule=parts.build("schedule", schedule_part.pop("name"), schedule_part),
        budget=Budget(steps, None if section.minutes is None else 60 * section.minutes, started, reserve_s=REPORT_S),
        checkpoint=folder / CHECKPOINT,
        checkpoint_s=section.checkpoint_s,
        average=average,
        whole=whole,
    )
    if training.checkpoint.is_file():
        training.restore()
    training.source = _make_batches(fabric, recipe, inspection, training.state.step * section.accumulate)
    return training


def training_pairs(inspection: Inspection) -> list[Pair]:
    """The pairs that teach."""
    return [pair for pair in inspection.dataset.splits.get("train", ()) if pair.mask is not None]


def make_losses(recipe: Recipe, inspection: Inspection) -> dict[str, tuple[float, nn.Module]]:
    """Weight and loss by name."""
    losses = {}
    for name, arguments in recipe.loss.items():
        given = {key: value for key, value in arguments.items() if key != "weight"}
        made = parts.build("loss", name, given, class_shares=inspection.statistics.class_shares)
        losses[name] = (float(arguments["weight"]), made)
    return losses


def make_transform(recipe: Recipe) -> Transform:
    """The random change of a sample."""
    part = dict(recipe.transform)
    made: Transform = parts.build("transform", part.pop("name"), part)
    return made


def _make_batches(fabric: Fabric, recipe: Recipe, inspection: Inspection, start: int) -> Batches:
    section, pairs = recipe.train, training_pairs(inspection)
    assert section.batch_size is not None
    shown = [inspection.shown[pair] for pair in pairs]
    return Batches(
        inspection.dataset,
        pairs,
        make_transform(recipe),
        batch_size=section.batch_size,
        order=make_order(section.sampling, shown, seed=section.seed, rare_below=section.rare_below),
        start=start,
        seed=section.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        threads=section.threads,
    )


def loop_settings(recipe: Recipe) -> LoopSettings:
    """What a recipe says about the loop."""
    section = recipe.train
    assert section.batch_size is not None
    return LoopSettings(
        batch_size=section.batch_size,
        accumulate=section.accumulate,
        clip_norm=section.clip_norm,
        validations=section.validations,
        patience=section.patience,
        log_s=section.log_s,
        finish_s=REPORT_S,
    )
