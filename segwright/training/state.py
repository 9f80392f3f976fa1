"""What changes while a network trains, and how it survives a kill."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from segwright.training.average import WeightAverage
from segwright.training.budget import Budget
from segwright.training.checkpoint import load_checkpoint, save_checkpoint
from segwright.training.gradients import GradientWatch
from segwright.training.schedules import Schedule
from segwright.training.sharding import gather, load_module, load_optimizer, own_share


class Source(Protocol):
    """Batches without end, and how long the loop waited for them."""

    waited_s: float

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class DivergedError(RuntimeError):
    """The loss or the weights are no longer numbers."""


@dataclass
class LoopState:
    """Where a run stands; all of it is in a checkpoint."""

    step: int = 0
    validations: int = 0
    best_miou: float = -1.0
    without_gain: int = 0


@dataclass
class Training:
    """All that changes while a network trains.

    Attributes:
        network: The bare network (a segmenter) inside the method.
        method: The method, set up by Fabric; maps images and masks to named losses, the total under "loss".
        checkpoint_s: Seconds between checkpoints.
        average: What is scored and kept in place of the weights; None takes the weights.
        whole: A copy of the network that is scored in its place where its weights are spread over processes.
        is_signaled: Set by a signal handler, at any moment.
        stopping: What all processes agree on; the loop then leaves a checkpoint and returns.
        save_due: What all processes agree on; the last checkpoint is older than it should be.
        source: Batches from the step of `state` on; set once that step is known.
        annealed: Layers and losses that have an `anneal`.
    """

    fabric: Fabric
    network: nn.Module
    method: _FabricModule
    optimizer: _FabricOptimizer
    schedule: Schedule
    budget: Budget
    checkpoint: Path
    checkpoint_s: float
    average: WeightAverage | None = None
    whole: nn.Module | None = None
    state: LoopState = field(default_factory=LoopState)
    is_signaled: bool = False
    stopping: bool = False
    save_due: bool = False
    source: Source = field(init=False)
    annealed: list[nn.Module] = field(init=False)
    _saved_s: float = field(init=False)

    def __post_init__(self) -> None:
        # What changes over a run by itself, such as the temperature of dynamic convolutions or the share of a loss.
        self.annealed = [module for module in self.method.module.modules() if hasattr(module, "anneal")]
        self._saved_s = self.budget.elapsed_s

    def anneal(self, progress: float) -> None:
        """Tell the layers and losses that change over a run how far it is."""
        for module in self.annealed:
            module.anneal(progress)  # type: ignore[operator]

    def progress(self) -> float:
        """Share of the run that is done; the first process's clock and signals decide for all."""
        progress, self.stopping = self.budget.progress(self.state.step), self.is_signaled
        self.save_due = self.budget.elapsed_s - self._saved_s > self.checkpoint_s
        if self.fabric.world_size > 1:
            # One process must not stop while the others wait for its gradients or its share of the weights.
            progress, self.stopping, self.save_due = self.fabric.broadcast((progress, self.stopping, self.save_due))
        return progress

    def scored(self) -> nn.Module:
        """The network that is scored and kept."""
        network = self.average.network if self.average else self.network
        if self.whole is None:
            return network
        self.whole.load_state_dict(gather(network.state_dict()))
        return self.whole

    def check_finite(self) -> None:
        """Refuse to go on with weights that are no longer numbers.

        Raises:
            DivergedError: Before they could replace good ones in the run folder.
        """
        norms = torch._foreach_norm([own_share(parameter.detach()) for parameter in self.network.parameters()])
        total = torch.stack(norms).sum()
        if self.whole is not None:  # each process sees its share only, and all must agree
            total = self.fabric.all_reduce(total, reduce_op="sum")  # type: ignore[assignment]
        if not bool(total.isfinite()):
            raise DivergedError(
                f"the weights are no longer finite after step {self.state.step}{self.say_broken()}; "
                f"{self.checkpoint.parent} keeps the last good ones; lower optimizer.lr, or set train.precision=fp32"
            )

    def say_broken(self) -> str:
        """Where the weights of the network stopped being finite, as a part of a sentence; nothing if they are."""
        stage = GradientWatch.first_broken(self.network)
        return "" if stage is None else f", first in {stage}"

    def save(self) -> None:
        """Write the checkpoint; the first process writes for all."""
        self.check_finite()
        state: dict[str, Any] = vars(self.state) | {
            "budget": self.budget.to_list(),
            "network": gather(self.method.module.state_dict()),
            "optimizer": gather(self.optimizer.optimizer.state_dict()),
            "average": gather(self.average.state_dict()) if self.average else None,
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        if self.fabric.is_global_zero:
            save_checkpoint(state, self.checkpoint)
        self._saved_s = self.budget.elapsed_s

    def restore(self) -> None:
        """Go back to where the checkpoint was written."""
        state = load_checkpoint(self.checkpoint)
        self.state = LoopState(**{key: state[key] for key in vars(self.state)})
        self.budget.restore(state["budget"])
        try:
            load_module(self.method.module, state["network"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, KeyError):
            raise ValueError(
                f"{self.checkpoint} holds other weights than its network has now; it was made by another version, so "
                "train again"
            ) from None
        load_optimizer(self.optimizer.optimizer, state["optimizer"])
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"])
