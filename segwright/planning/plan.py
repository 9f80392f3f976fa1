"""Fills in what a recipe leaves to the data."""

from pathlib import Path
from typing import Any

from segwright import parts
from segwright.data.inspection import Inspection
from segwright.recipe import Recipe

LARGEST_CROP = 384
"""Side of the largest crop that is chosen by itself; more context than this helps less than more varied crops."""

SYMMETRIC = 0.1
"""Two halves of the images whose class shares differ less than this (total variation) are mirrored in training."""

DEFAULT_MINUTES = 20.0


def complete(recipe: Recipe, inspection: Inspection) -> Recipe:
    """A copy of the recipe without open values: limit, crop, batch size, flips, angles.

    Args:
        recipe: A checked recipe.
        inspection: What the data is.
    """
    # Absolute, so that resuming and reporting work from any folder.
    values: dict[str, Any] = {"data": str(Path(recipe.data).resolve())}
    data, train, transform = inspection.statistics, recipe.train, recipe.transform
    if train.steps is None and train.epochs is None and train.minutes is None:
        values["train.minutes"] = DEFAULT_MINUTES
    if train.batch_size is None:
        values["train.batch_size"] = 4 * train.devices
    if "crop" in transform and transform["crop"] is None:
        values["transform.crop"] = list(choose_crop((data.heights[1], data.widths[1]), network_stride(recipe)))
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
    recipe = recipe.with_values(values)
    _check_batch(recipe)
    return recipe


def _check_batch(recipe: Recipe) -> None:
    """Refuse what could only fail once the run has begun."""
    size, devices = recipe.train.batch_size, recipe.train.devices
    assert size is not None
    if size % devices or size < 2:
        raise ValueError(
            f"train.batch_size is {size}, but batch normalization needs 2 images or more, and {devices} devices a "
            f"multiple of {devices}; give {max(2, devices, -(-size // devices) * devices)}"
        )
    stride, crop = network_stride(recipe), recipe.transform.get("crop")
    if crop is not None and (crop[0] % stride or crop[1] % stride):
        fitting = [max(1, side // stride) * stride for side in crop]
        raise ValueError(
            f"transform.crop is {crop[0]} x {crop[1]}, but {recipe.network['name']} needs multiples of {stride}; give "
            f"[{fitting[0]},{fitting[1]}]"
        )


def network_stride(recipe: Recipe) -> int:
    """Stride of the recipe's network, as its class says."""
    return int(getattr(parts.constructor("network", recipe.network["name"]), "stride", 32))


def choose_crop(median_size: tuple[float, float], stride: int) -> tuple[int, int]:
    """A crop that keeps the images' shape, is at most `LARGEST_CROP` in each side, and fits the stride."""
    height, width = median_size
    shrink = min(1.0, LARGEST_CROP / max(height, width))
    step = max(stride, 32)
    return max(step, round(height * shrink / step) * step), max(step, round(width * shrink / step) * step)
