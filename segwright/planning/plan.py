"""Fills in what a recipe leaves to the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from segwright import parts
from segwright.data.inspection import Inspection
from segwright.planning.machine import SMALLEST_STEP, fit_machine
from segwright.planning.rate import RATES, choose_rate
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


def complete(recipe: Recipe, inspection: Inspection, *, is_resumed: bool = False) -> Plan:
    """Decide what a recipe left open: limit, learning rate, crop, batch size, flips, angles.

    Args:
        recipe: A checked recipe.
        inspection: What the data is.
        is_resumed: Whether the recipe is that of a run that has begun, which the machine has fitted already.

    Raises:
        ValueError: If the sizes do not fit together, or no training step fits in the memory.
    """
    # Absolute, so that resuming and reporting work from any folder.
    values: dict[str, Any] = {"data": str(Path(recipe.data).resolve())}
    data, train, transform = inspection.statistics, recipe.train, recipe.transform
    if train.steps is None and train.epochs is None and train.minutes is None:
        values["train.minutes"] = DEFAULT_MINUTES
    network = _skeleton(recipe, inspection)
    stride = int(getattr(network, "stride", 32))
    if recipe.optimizer["name"] in RATES and recipe.optimizer["lr"] is None:
        is_built = isinstance(network, nn.Module)
        name = recipe.optimizer["name"]
        values["optimizer.lr"] = choose_rate(name, network) if is_built else RATES[name]
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
    if is_resumed:
        return Plan(wanted, ())
    return Plan(
        *fit_machine(
            wanted, inspection, stride, shrink_batch=train.batch_size is None, shrink_crop=transform.get("crop") is None
        )
    )


def _skeleton(recipe: Recipe, inspection: Inspection) -> Any:  # noqa: ANN401 - a network, or the class of one
    assert inspection.dataset.classes is not None
    sizes = inspection.dataset.channels, len(inspection.dataset.classes)
    try:
        return make_skeleton(recipe.network, *sizes)
    except (RuntimeError, NotImplementedError):
        if "." not in recipe.network["name"]:
            raise
        # Code from outside may ask for the values of its weights, which have none here.
        return parts.constructor("network", recipe.network["name"])


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
    sides = (round(side * shrink / step) * step for side in (height, width))
    # Rounding up may pass the limit where the step is large.
    crop_height, crop_width = (max(step, side - step if side > LARGEST_CROP else side) for side in sides)
    return crop_height, crop_width
