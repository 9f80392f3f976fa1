"""The one training loop: steps, validations, checkpoints, all driven by progress from 0 to 1."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segwright.training.gradients import GradientWatch
from segwright.training.sharding import gather
from segwright.training.state import DivergedError, LoopState, Training


class Record(Protocol):
    """Where the loop reports to; the first process has one that writes and draws, the others one that does nothing."""

    def phase(self, name: str) -> None:
        """Say what happens now."""

    def step(self, row: Mapping[str, float], remaining_s: float | None) -> None:
        """Take the means since the last row."""

    def validation(self, row: Mapping[str, float], is_best: bool) -> None:
        """Take the scores of a validation."""

    def warn(self, sentence: str) -> None:
        """Tell the user that something goes wrong, though training goes on."""


@dataclass(frozen=True)
class LoopSettings:
    """What a recipe says about the loop; see `recipe.TrainSection` for the meaning of each."""

    batch_size: int
    accumulate: int
    clip_norm: float
    validations: int
    patience: int | None
    log_s: float
    finish_s: float


@dataclass
class _Meter:
    """Sums since the last row of the log."""

    losses: list[Tensor] = field(default_factory=list)
    norm: Tensor | None = None
    started: float = field(default_factory=time.monotonic)
    waited_before_s: float = 0.0


def fit(
    training: Training,
    settings: LoopSettings,
    validate: Callable[[nn.Module], Mapping[str, float] | None],
    record: Record,
) -> None:
    """Train until the budget is spent, patience ends or a signal came; `training` holds the result.

    Args:
        training: What trains, from where it stands.
        settings: How.
        validate: Scores a network, keeps it if it is the best so far (`best_miou` of the state tells), and returns
            the scores ("miou" among them), the same in all processes; None when there is nothing to validate on.
        record: Told about steps and validations.

    Raises:
        ValueError: If the budget was spent before the first step.
        DivergedError: If the loss is no longer finite. The checkpoint holds the weights before that.
    """
    state, budget = training.state, training.budget
    batches = iter(training.source)
    progress = first_progress = training.progress()
    if progress >= 1 and state.step == 0:
        raise ValueError(
            f"the time of the run was over before its first step, {budget.elapsed_s:.0f} s after the start; give more "
            "minutes"
        )
    if progress < 1:  # what passed before the first step calls for no validation
        state.validations = max(state.validations, int(progress * settings.validations))
    loop_started_s, meter, watch = budget.elapsed_s, _Meter(), GradientWatch()
    while progress < 1 and not training.stopping and not _is_out_of_patience(state, settings):
        rate = _set_learning_rate(training, progress)
        training.anneal(progress)
        is_watched = not meter.losses and training.fabric.is_global_zero  # the first step of each row
        loss, meter.norm, warnings = take_step(training, settings, batches, watch if is_watched else None)
        meter.losses.append(loss)
        for warning in warnings:
            record.warn(warning)
        state.step += 1
        progress = training.progress()
        if training.average:
            training.average.update(training.network, state.step, progress)
        is_due = int(progress * settings.validations) > state.validations
        if is_due or time.monotonic() - meter.started >= settings.log_s:
            row = {"step": state.step, "progress": progress, "elapsed_s": budget.elapsed_s, "learning_rate": rate}
            remaining_s = budget.remaining_s(progress, loop_started_s, first_progress)
            record.step(row | _read(meter, training, settings), remaining_s)
            meter = _Meter(waited_before_s=training.source.waited_s)
        if is_due:
            training.check_finite()
            state.validations = int(progress * settings.validations)
            _validate(training, settings, validate, record, progress)
            meter.started = time.monotonic()
            progress = training.progress()
            if progress < 1:  # a validation that took longer than the way to the next one replaces it
                state.validations = int(progress * settings.validations)
        if is_due or training.save_due:
            training.save()
    training.save()


def _set_learning_rate(training: Training, progress: float) -> float:
    factor = training.schedule(progress)
    for group in training.optimizer.param_groups:
        # The rate that the recipe asked for stays beside the one in force.
        group.setdefault("full_lr", group["lr"])
        group["lr"] = group["full_lr"] * factor
    rate: float = training.optimizer.param_groups[0]["lr"]
    return rate


def take_step(
    training: Training,
    settings: LoopSettings,
    batches: Iterator[tuple[Tensor, Tensor]],
    watch: GradientWatch | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None, list[str]]:
    """One optimizer step at the rate that the optimizer has.

    Returns:
        The loss, the norm of the gradient before it was clipped (None without clipping), and what `watch` found wrong.
    """
    training.method.train()
    total: Tensor | None = None
    for index in range(settings.accumulate):
        image, mask = next(batches)
        image, mask = training.fabric.to_device((image, mask))
        with training.fabric.no_backward_sync(training.method, enabled=index + 1 < settings.accumulate):
            loss = training.method(image, mask)["loss"] / settings.accumulate
            training.fabric.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    if training.fabric.world_size > 1:
        # In every step: the clocks of the processes differ, so that a reduction at each row of the log would not meet.
        total = training.fabric.all_reduce(total, reduce_op="mean")  # type: ignore[assignment]
    warnings = [] if watch is None else watch.observe(training.network)
    norm: Tensor | None = None
    if settings.clip_norm > 0:
        norm = training.fabric.clip_gradients(
            training.method, training.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
        norm = gather(norm)
    training.optimizer.step()
    training.optimizer.zero_grad()
    return total, norm, warnings


def _read(meter: _Meter, training: Training, settings: LoopSettings) -> dict[str, float]:
    seconds = max(time.monotonic() - meter.started, 1e-9)
    mean = torch.stack(meter.losses).float().mean()
    loss = float(mean)
    if not math.isfinite(loss):
        raise DivergedError(
            f"the loss became {loss} before step {training.state.step}{training.say_broken()}; "
            f"{training.checkpoint.parent} keeps the last good weights; lower optimizer.lr, or set train.precision=fp32"
        )
    return {
        "loss": loss,
        "gradient_norm": float(meter.norm) if meter.norm is not None else math.nan,
        "images_per_s": len(meter.losses) * settings.accumulate * settings.batch_size / seconds,
        "waiting_share": (training.source.waited_s - meter.waited_before_s) / seconds,
    }


def _validate(
    training: Training,
    settings: LoopSettings,
    validate: Callable[[nn.Module], Mapping[str, float] | None],
    record: Record,
    progress: float,
) -> None:
    state, is_first = training.state, training.fabric.is_global_zero
    if is_first:
        record.phase("validating")
    started = time.monotonic()
    scores = validate(training.scored())
    # The last validation and the report, which predicts a few images again, must fit into the user's minutes.
    training.budget.reserve_s = 2 * (time.monotonic() - started) + settings.finish_s
    if scores is not None:
        is_best = scores["miou"] > state.best_miou
        state.best_miou = max(scores["miou"], state.best_miou)
        state.without_gain = 0 if is_best else state.without_gain + 1
        place = {"step": state.step, "progress": progress, "elapsed_s": training.budget.elapsed_s}
        if is_first:
            record.validation(place | dict(scores), is_best)
    if is_first:
        record.phase("training")


def _is_out_of_patience(state: LoopState, settings: LoopSettings) -> bool:
    return settings.patience is not None and state.without_gain >= settings.patience
