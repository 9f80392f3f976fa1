"""Fits a recipe to the machine: its memory, and what its processor computes right."""

import torch

from segwright.data.inspection import Inspection
from segwright.layers.hardware import choose_device, free_memory, uses_bf16
from segwright.planning.step import IN_USE, Step, follow_step
from segwright.recipe import Recipe

SMALLEST_STEP = 32
"""Crops change by this many pixels, or by the network's stride if that is larger."""


def fit_machine(
    recipe: Recipe, inspection: Inspection, stride: int, *, shrink_batch: bool, shrink_crop: bool
) -> tuple[Recipe, tuple[str, ...]]:
    """Shrink a batch, then a crop, until a step fits in the free memory; leave bfloat16 where it would be wrong.

    Args:
        recipe: A recipe without open values but the precision.
        inspection: What the data is.
        stride: Sides of crops must be multiples of this.
        shrink_batch: Whether the batch may shrink.
        shrink_crop: Whether the crop may shrink.

    Returns:
        The recipe, and one sentence for each change.

    Raises:
        ValueError: If no step fits, or if the recipe asks for bfloat16 where it would be wrong.
    """
    if recipe.transform.get("crop") is None:
        return recipe, ()  # a transform of somebody else's with sizes of its own
    device = choose_device(recipe.train.device)
    fitting, room = recipe, IN_USE * free_memory(device)
    try:
        while _needed(step := _follow(fitting, inspection), fitting, device) > room:
            smaller = _smaller(fitting, stride, shrink_batch=shrink_batch, shrink_crop=shrink_crop)
            if smaller is None:
                raise ValueError(_too_large(fitting, _needed(step, fitting, device), room))
            fitting = smaller
    except (RuntimeError, NotImplementedError) as error:
        if "." not in recipe.network["name"]:
            raise
        # Code from outside may ask for the values of its tensors, which have none here.
        reason = str(error).splitlines()[0]
        return recipe, (f"the memory of a step of {recipe.network['name']} could not be told ({reason})",)
    notes = _size_notes(recipe, fitting)
    if step.overrun is not None and device.type == "cpu" and _is_bf16(fitting):
        layer = f"{step.overrun} of {recipe.network['name']}"
        reason = (
            f"crops of {_size(fitting)} leave {layer} a map smaller than its stride, where gradients in bfloat16 are "
            "wrong on CPUs"
        )
        if fitting.train.precision == "bf16":
            raise ValueError(f"{reason}; give larger crops or train.precision=fp32")
        fitting = fitting.with_values({"train.precision": "fp32"})
        notes = (*notes, f"float32 is used, because {reason}")
    return fitting, notes


def _needed(step: Step, recipe: Recipe, device: torch.device) -> int:
    """Bytes of the memory that runs out first: of each GPU, or of the machine, which all processes share."""
    size, devices = recipe.train.batch_size, recipe.train.devices
    assert size is not None
    return step.num_bytes(size // devices) if device.type == "cuda" else step.num_bytes(size, devices)


def _is_bf16(recipe: Recipe) -> bool:
    return uses_bf16(recipe.train.precision, choose_device(recipe.train.device))


def _follow(recipe: Recipe, inspection: Inspection) -> Step:
    dataset = inspection.dataset
    assert dataset.classes is not None
    sizes = dataset.channels, len(dataset.classes), recipe.transform["crop"]
    return follow_step(recipe.network, *sizes, bf16=_is_bf16(recipe))


def _smaller(recipe: Recipe, stride: int, *, shrink_batch: bool, shrink_crop: bool) -> Recipe | None:
    """The next smaller recipe: half the batch down to 2 images a device, then three quarters of the crop."""
    size, devices = recipe.train.batch_size, recipe.train.devices
    assert size is not None
    if shrink_batch and size // 2 >= 2 * devices:
        return recipe.with_values({"train.batch_size": size // 2})
    step = max(stride, SMALLEST_STEP)
    crop = [max(step, side * 3 // 4 // step * step) for side in recipe.transform["crop"]]
    if shrink_crop and crop != list(recipe.transform["crop"]):
        return recipe.with_values({"transform.crop": crop})
    return None


def _too_large(recipe: Recipe, needed: int, room: float) -> str:
    return (
        f"a training step of {recipe.network['name']} with {recipe.train.batch_size} crops of {_size(recipe)} needs "
        f"about {needed / 1e9:.1f} GB, but {room / 1e9:.1f} GB can be used; take a smaller network, crop or "
        "batch, or free memory"
    )


def _size(recipe: Recipe) -> str:
    return " x ".join(str(side) for side in recipe.transform["crop"])


def _size_notes(wanted: Recipe, fitting: Recipe) -> tuple[str, ...]:
    before_after = (
        (f"{wanted.train.batch_size} images a batch", f"{fitting.train.batch_size} images a batch"),
        (f"crops of {_size(wanted)}", f"crops of {_size(fitting)}"),
    )
    reason = f"so that a step of {fitting.network['name']} fits in memory"
    return tuple(f"{after} instead of {before}, {reason}" for before, after in before_after if before != after)
