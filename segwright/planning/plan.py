"""Fills in what a recipe leaves to the data."""

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
    """A copy of the recipe without open values: limit, crop, batch size, flips.

    Args:
        recipe: A checked recipe.
        inspection: What the data is.
    """
    values: dict[str, Any] = {}
    data, train, transform = inspection.statistics, recipe.train, recipe.transform
    if train.steps is None and train.epochs is None and train.minutes is None:
        values["train.minutes"] = DEFAULT_MINUTES
    if train.batch_size is None:
        values["train.batch_size"] = 8 if train.devices == 1 else 4 * train.devices
    if "crop" in transform and transform["crop"] is None:
        values["transform.crop"] = list(choose_crop((data.heights[1], data.widths[1]), network_stride(recipe)))
    if "flip_horizontal" in transform and transform["flip_horizontal"] is None:
        values["transform.flip_horizontal"] = data.horizontal_asymmetry < SYMMETRIC
    if "flip_vertical" in transform and transform["flip_vertical"] is None:
        values["transform.flip_vertical"] = data.vertical_asymmetry < SYMMETRIC
    return recipe.with_values(values)


def network_stride(recipe: Recipe) -> int:
    """Stride of the recipe's network, as its class says."""
    return int(getattr(parts.constructor("network", recipe.network["name"]), "stride", 32))


def choose_crop(median_size: tuple[float, float], stride: int) -> tuple[int, int]:
    """A crop that keeps the images' shape, is at most `LARGEST_CROP` in each side, and fits the stride."""
    height, width = median_size
    shrink = min(1.0, LARGEST_CROP / max(height, width))
    step = max(stride, 32)
    return max(step, round(height * shrink / step) * step), max(step, round(width * shrink / step) * step)
