"""How fast a recipe trains on this machine, from a few steps on noise."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from segwright import parts
from segwright.data.inspection import Inspection
from segwright.layers.bfloat16 import guard_gradients
from segwright.layers.hardware import choose_device, uses_bf16
from segwright.recipe import Recipe

STEPS = 3
LEARNING = 0.85
"""Share of the minutes of a run that its steps get; reading the data, validations and the report take the rest."""

FEW_PASSES = 5.0
"""A network that sees each image less often than this has hardly learned from it."""


@dataclass(frozen=True)
class Pace:
    """What a run will do.

    Attributes:
        seconds_per_step: Of one optimizer step, all its batches together.
        steps: Optimizer steps that the run will make, about.
        minutes: Wall time that it will take, about.
        passes: How often it will see each training image, about.
    """

    seconds_per_step: float
    steps: int
    minutes: float
    passes: float

    def describe(self) -> str:
        """One sentence, with a warning where the time is short."""
        sentence = (
            f"About {self.steps:,} steps of {1000 * self.seconds_per_step:,.0f} ms in {self.minutes:,.3g} minutes on "
            f"this machine; each training image is seen {self.passes:,.3g} times."
        )
        return sentence if self.passes >= FEW_PASSES else f"{sentence} That is little: give more minutes."


def probe(recipe: Recipe, inspection: Inspection) -> Pace:
    """Train a few steps on noise and tell how far the recipe will come.

    Args:
        recipe: From `complete`.
        inspection: What the data is.
    """
    train = recipe.train
    assert train.batch_size is not None
    images_per_step = train.batch_size * train.accumulate
    seconds = train.accumulate * _seconds_per_batch(recipe, inspection)
    num_images = max(1, inspection.statistics.num_pairs.get("train", 0))
    if train.minutes is not None:
        steps = max(1, round(60 * LEARNING * train.minutes / seconds))
    elif train.epochs is not None:
        steps = max(1, round(train.epochs * num_images / images_per_step))
    else:
        assert train.steps is not None
        steps = train.steps
    minutes = train.minutes or steps * seconds / 60 / LEARNING
    return Pace(seconds, steps, minutes, steps * images_per_step / num_images)


def _seconds_per_batch(recipe: Recipe, inspection: Inspection) -> float:
    assert recipe.train.batch_size is not None
    assert inspection.dataset.classes is not None
    device = choose_device(recipe.train.device)
    num_classes, channels = len(inspection.dataset.classes), inspection.dataset.channels
    share = recipe.train.batch_size // recipe.train.devices
    crop = recipe.transform.get("crop") or (inspection.statistics.heights[1], inspection.statistics.widths[1])
    network = _network(recipe, channels, num_classes).to(device).train()
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    image = torch.randn(share, channels, *map(int, crop), device=device).to(memory_format=torch.channels_last)
    mask = torch.randint(num_classes, (share, *map(int, crop)), device=device)
    is_bf16 = uses_bf16(recipe.train.precision, device)
    if is_bf16 and device.type == "cpu":
        guard_gradients(network)
    times = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            outputs = network.forward_all(image) if hasattr(network, "forward_all") else [network(image)]  # type: ignore[operator]
            loss = sum((_cost(logits, mask) for logits in outputs), start=image.new_zeros(()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])  # the first step allocates and chooses kernels


def _network(recipe: Recipe, channels: int, num_classes: int) -> nn.Module:
    arguments = {key: value for key, value in recipe.network.items() if key != "name"}
    if "weights" in arguments:
        arguments["weights"] = "none"
    network: nn.Module = parts.build(
        "network", recipe.network["name"], arguments, in_channels=channels, num_classes=num_classes
    )
    return network


def _cost(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows, columns = logits.shape[2:]
    return nn.functional.cross_entropy(logits.float(), mask[:, :rows, :columns])
