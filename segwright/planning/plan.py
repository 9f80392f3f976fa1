"""Fills in what a recipe leaves open, each value with its reason."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from segwright import parts
from segwright.data.inspection import Inspection
from segwright.planning.choice import Choice
from segwright.planning.machine import fit_machine
from segwright.planning.network import decide_loss, decide_network
from segwright.planning.rate import RATES, choose_rate
from segwright.planning.skeleton import make_skeleton
from segwright.planning.transform import decide_transform
from segwright.recipe import Recipe

DEFAULT_MINUTES = 20.0
DEFAULT_BATCH = 4


@dataclass(frozen=True)
class Plan:
    """What is going to be trained, and why.

    Attributes:
        recipe: A recipe without open values.
        choices: What was decided and why.
        notes: One sentence for each choice that the machine forced.
    """

    recipe: Recipe
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]


def complete(recipe: Recipe, inspection: Inspection, *, is_resumed: bool = False) -> Plan:
    """Decide what a recipe left open: limit, network, loss, learning rate, batch size, random changes.

    Args:
        recipe: A checked recipe.
        inspection: What the data is.
        is_resumed: Whether the recipe is that of a run that has begun, which the machine has fitted already.

    Raises:
        ValueError: If the sizes do not fit together, or no training step fits in the memory.
    """
    choices = [*_decide_limits(recipe), *decide_network(recipe, inspection), *decide_loss(recipe, inspection)]
    # Absolute, so that resuming and reporting work from any folder.
    begun = _with(recipe, choices).with_values({"data": str(Path(recipe.data).resolve())})
    network = _skeleton(begun, inspection)
    stride = int(getattr(network, "stride", 32))
    later = [*_decide_rate(begun, network), *decide_transform(begun, inspection, stride)]
    wanted = _with(begun, later)
    _check_batch(wanted, stride)
    if is_resumed:
        return Plan(wanted, (), ())
    fitted, notes = fit_machine(
        wanted,
        inspection,
        stride,
        shrink_batch=recipe.train.batch_size is None,
        shrink_crop=recipe.transform.get("crop") is None,
    )
    # Batch and crop may have shrunk.
    settings = {"train.batch_size": fitted.train.batch_size, "transform.crop": fitted.transform.get("crop")}
    made = (replace(choice, value=settings.get(choice.key, choice.value)) for choice in (*choices, *later))
    return Plan(fitted, tuple(made), notes)


def _with(recipe: Recipe, choices: list[Choice]) -> Recipe:
    return recipe.with_values({choice.key: choice.value for choice in choices})


def _decide_limits(recipe: Recipe) -> list[Choice]:
    train, choices = recipe.train, []
    if train.steps is None and train.epochs is None and train.minutes is None:
        choices.append(Choice("train.minutes", DEFAULT_MINUTES, "no limit was given"))
    if train.batch_size is None:
        reason = "more steps in the same time beat larger batches (benchmarks/defaults.csv)"
        choices.append(Choice("train.batch_size", DEFAULT_BATCH * train.devices, reason))
    return choices


def _decide_rate(recipe: Recipe, network: Any) -> list[Choice]:  # noqa: ANN401 - a network, or the class of one
    name = recipe.optimizer["name"]
    if name not in RATES or recipe.optimizer["lr"] is not None:
        return []
    rate = choose_rate(name, network) if isinstance(network, nn.Module) else RATES[name]
    kind = "is normalized throughout" if rate == RATES[name] else "has attention, or layers without normalization"
    return [Choice("optimizer.lr", rate, f"{recipe.network['name']} {kind}")]


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
