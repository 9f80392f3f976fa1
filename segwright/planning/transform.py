"""Which random changes the data bears: crop, angle, mirrors, bending."""

from typing import Any

from segwright.data.inspection import Inspection
from segwright.planning.choice import Choice
from segwright.planning.machine import SMALLEST_STEP
from segwright.recipe import Recipe

LARGEST_CROP = 384
"""Side of the largest crop that is chosen by itself; more context than this helps less than more steps."""

SMALLEST_CONTEXT = 256
"""Side of the smallest crop that is chosen for narrow objects; smaller images are still shown whole."""

CONTEXT_WIDTHS = 20
"""Objects that lie side by side in a crop.

In benchmarks/planning.csv street scenes, of objects 23 pixels wide, lose 8 points with crops of 256 pixels instead of
384, for want of context; membranes, 12 pixels wide, gain 2 points and much V_Rand, from twice as many steps.
"""

SYMMETRIC = 0.1
"""Two halves of the images whose class shares differ less than this (total variation) are mirrored in training."""


def decide_transform(recipe: Recipe, inspection: Inspection, stride: int) -> list[Choice]:
    """The open values of the transform.

    Args:
        recipe: A recipe with a network.
        inspection: What the data is.
        stride: Sides of crops must be multiples of this.
    """
    data = inspection.statistics
    vertical, horizontal = data.vertical_asymmetry, data.horizontal_asymmetry
    height, width = data.heights[1], data.widths[1]
    # Where the halves are alike in both directions there is no up, as in most microscopy: any angle can occur.
    has_up = max(vertical, horizontal) >= SYMMETRIC
    direction = "the images have an up and a down" if has_up else "the images have no up and no down"
    objects = f", objects about {data.object_width:.0f} wide" if data.object_width > 0 else ""
    wanted: list[tuple[str, Any, str]] = [
        (
            "crop",
            list(choose_crop((height, width), stride, data.object_width)),
            f"images of {height:g} x {width:g} pixels{objects}",
        ),
        ("rotation_degrees", 5.0 if has_up else 180.0, direction),
        ("elastic_px", 0.0 if has_up else 3.0, direction),
        ("flip_horizontal", horizontal < SYMMETRIC, f"left and right halves differ by {horizontal:.0%}"),
        ("flip_vertical", vertical < SYMMETRIC, f"top and bottom halves differ by {vertical:.0%}"),
    ]
    return [
        Choice(f"transform.{key}", value, reason)
        for key, value, reason in wanted
        if key in recipe.transform and recipe.transform[key] is None
    ]


def choose_crop(median_size: tuple[float, float], stride: int, object_width: float = 0.0) -> tuple[int, int]:
    """A crop that keeps the images' shape, shows enough of the objects' surroundings, and fits the stride.

    Args:
        median_size: Height and width of the images in pixels.
        stride: Sides of the crop are multiples of this.
        object_width: Typical width of the objects in pixels, 0 if unknown.
    """
    height, width = median_size
    context = CONTEXT_WIDTHS * object_width if object_width > 0 else LARGEST_CROP
    largest = min(max(context, SMALLEST_CONTEXT), LARGEST_CROP)
    shrink = min(1.0, largest / max(height, width))
    step = max(stride, SMALLEST_STEP)
    sides = (round(side * shrink / step) * step for side in (height, width))
    # Rounding up may pass the limit where the step is large.
    crop_height, crop_width = (max(step, side - step if side > largest else side) for side in sides)
    return crop_height, crop_width
