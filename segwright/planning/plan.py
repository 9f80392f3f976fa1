"""Fills in what a recipe leaves to the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.data.inspection import Inspection
from segwright.planning.machine import SMALLEST_STEP, fit_machine
from segwright.planning.rate import choose_rate
from segwright.planning.skeleton import make_skeleton
from segwright.recipe import Recipe

LARGEST_CROP = 384
"""Side of the largest crop that is chosen by itself; more context than this helps less than more varied crops."""

SYMMETRIC = 0.1
"""Two halves of the images whose class shares differ less than this (total variation) are mirrored in training."""

DEFAULT_MINUTES = 20.0
DEFAULT_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """What is going to be trained, and why where that is not what a user expects.

    Attributes:
        recipe: A recipe without open values.
        notes: One sentence for each choice that the machine forced.
    """

    recipe: Recipe
    notes: tuple[str, ...]


def complete(recipe: Recipe, inspection: Inspection) -> Plan:
    """Decide what a recipe left open: limit, learning rate, crop, batch size, flips, angles.

    Args:
        recipe: A checked recipe.
        inspection: What the data is.

    Raises:
        ValueError: If the sizes do not fit together, or no training step fits in the memory.
    """
    # Absolute, so that resuming and reporting work from any folder.
    values: dict[str, Any] = {"data": str(Path(recipe.data).resolve())}
    data, train, transform = inspection.statistics, recipe.train, recipe.transform
    if train.steps is None and train.epochs is None and train.minutes is None:
        values["train.minutes"] = DEFAULT_MINUTES
    assert inspection.dataset.classes is not None
    network = make_skeleton(recipe.network, inspection.dataset.channels, len(inspection.dataset.classes))
    stride = int(getattr(network, "stride", 32))
    if "lr" in recipe.optimizer and recipe.optimizer["lr"] is None:
        values["optimizer.lr"] = choose_rate(recipe.optimizer["name"], network)
    if train.batch_size is None:
        values["train.batch_size"] = DEFAULT_BATCH * train.devices
    if "crop" in transform and transform["crop"] is None:
        values["transform.crop"] = list(choose_crop((data.heights[1], data.widths[1]), stride))
    # Where the halves are alike in both directions there is no up, as in most microscopy: any angle can occur.
    has_up = max(data.vertical_asymmetry, data.horizontal_asymmetry) >= SYMMETRIC
    if "rotation_degrees" in transform and transform["rotation_degrees"] is None:
        values["transform.rotation_degrees"] = 5.0 if has_up else 180.0
    if "elastic_px" in transform and transform["elastic_px"] is None:
        values["transform.elastic_px"] = 0.0 if has_up else 3.0
    if "flip_horizontal" in transform and transform["flip_horizontal"] is None:
        values["transform.flip_horizontal"] = data.horizontal_asymmetry < SYMMETRIC
    if "flip_vertical" in transform and transform["flip_vertical"] is None:
        values["transform.flip_vertical"] = data.vertical_asymmetry < SYMMETRIC
    wanted = recipe.with_values(values)
    _check_batch(wanted, stride)
    return Plan(
        *fit_machine(
            wanted, inspection, stride, shrink_batch=train.batch_size is None, shrink_crop=transform.get("crop") is None
        )
    )


def _check_batch(recipe: Recipe, stride: int) -> None:
    """Refuse what could only fail once the run has begun."""
    size, devices = recipe.train.batch_size, recipe.train.devices
    assert size is not None
    if size % devices or size < 2:
        raise ValueError(
            f"train.batch_size is {size}, but batch normalization needs 2 images or more, and {devices} devices a "
            f"multiple of {devices}; give {max(2, devices, -(-size // devices) * devices)}"
        )
    crop = recipe.transform.get("crop")
    if crop is not None and (crop[0] % stride or crop[1] % stride):
        fitting = [max(1, side // stride) * stride for side in crop]
        raise ValueError(
            f"transform.crop is {crop[0]} x {crop[1]}, but {recipe.network['name']} needs multiples of {stride}; give "
            f"[{fitting[0]},{fitting[1]}]"
        )


def choose_crop(median_size: tuple[float, float], stride: int) -> tuple[int, int]:
    """A crop that keeps the images' shape, is at most `LARGEST_CROP` in each side, and fits the stride."""
    height, width = median_size
    shrink = min(1.0, LARGEST_CROP / max(height, width))
    step = max(stride, SMALLEST_STEP)
    return max(step, round(height * shrink / step) * step), max(step, round(width * shrink / step) * step)
