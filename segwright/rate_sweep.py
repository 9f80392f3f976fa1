"""The learning-rate range test on a recipe: which rate its network learns fastest with on its data."""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from segwright.building import loop_settings, make_segmenter, make_training, training_pairs
from segwright.data.inspection import inspect
from segwright.layers.hardware import choose_device, uses_bf16
from segwright.planning.plan import complete
from segwright.recipe import Recipe
from segwright.training.launch import make_fabric
from segwright.training.loop import take_step
from segwright.training.rate_finder import RateSweep, find_rate


def sweep_rate(recipe: Recipe, *, steps: int = 100, progress: Callable[[int], None] | None = None) -> RateSweep:
    """Train a fresh network with a rate that grows from step to step, and suggest one.

    Args:
        recipe: What to train on what; its limit and its schedule play no role.
        steps: Optimizer steps of the sweep.
        progress: Called with the number of steps done.

    Raises:
        ValueError: If the data cannot be trained on, or no rate makes the loss fall.
    """
    inspection = inspect(Path(recipe.data), fold=recipe.train.held_out)
    inspection.refuse_errors()
    if not training_pairs(inspection):
        raise ValueError(f"{recipe.data} has no training images with masks; segwright inspect {recipe.data} tells more")
    limits = {"train.devices": 1, "train.steps": steps, "train.minutes": None, "train.epochs": None}
    planned = complete(recipe.with_values(limits), inspection).recipe
    section, device = planned.train, choose_device(planned.train.device)
    is_bf16 = uses_bf16(section.precision, device)
    fabric = make_fabric(device.type, 1, None, is_bf16=is_bf16, deterministic=section.deterministic)
    torch.manual_seed(section.seed)
    with tempfile.TemporaryDirectory() as folder:
        segmenter = make_segmenter(planned, inspection)
        training = make_training(fabric, planned, inspection, segmenter, Path(folder), time.monotonic())
        batches, settings, done = iter(training.source), loop_settings(planned), itertools.count(1)

        def step(rate: float) -> float:
            for group in training.optimizer.param_groups:
                group["lr"] = rate
            loss, _, _ = take_step(training, settings, batches)
            if progress:
                progress(next(done))
            return float(loss)

        return find_rate(step, steps=steps)
