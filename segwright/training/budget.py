"""How long a run lasts: steps, epochs or minutes, all seen as progress from 0 to 1."""

import time
from dataclasses import dataclass


@dataclass
class Budget:
    """The limit of a run and where the run stands.

    Exactly one of `steps` and `seconds` is set; epochs have become steps before. Progress never goes back, and a
    resumed run goes on where its checkpoint was: `elapsed_before_s` is what earlier sittings took.

    Attributes:
        steps: Number of optimizer steps.
        seconds: Wall time from `started` on, all that follows the loop included.
        started: `time.monotonic()` at the start of the command.
        elapsed_before_s: Seconds that earlier sittings of the run took.
        reserve_s: Seconds to keep for the evaluation after the last step.
    """

    steps: int | None
    seconds: float | None
    started: float
    elapsed_before_s: float = 0.0
    reserve_s: float = 0.0
    _reached: float = 0.0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a run needs one limit; give one of train.steps, train.epochs and train.minutes")

    @property
    def elapsed_s(self) -> float:
        """Seconds of the run so far, earlier sittings included."""
        return self.elapsed_before_s + time.monotonic() - self.started

    def to_list(self) -> list[float]:
        """What a checkpoint keeps: seconds so far, the reserve, the progress reached."""
        return [self.elapsed_s, self.reserve_s, self._reached]

    def restore(self, values: list[float]) -> None:
        """Go on from what `to_list` gave in an earlier sitting."""
        self.elapsed_before_s, self.reserve_s, self._reached = values

    def progress(self, step: int) -> float:
        """Share of the run that is done after `step` steps, in [0, 1]."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.seconds is not None
        usable = max(self.seconds - self.reserve_s, 1e-9)
        self._reached = max(self._reached, min(self.elapsed_s / usable, 1.0))
        return self._reached

    def remaining_s(self, progress: float, loop_started_s: float, progress_then: float) -> float | None:
        """Seconds until the end, from the pace since the loop of this sitting started; None before there is a pace."""
        if self.seconds is not None:
            return max(self.seconds - self.elapsed_s, 0.0)
        done = progress - progress_then
        return (self.elapsed_s - loop_started_s) * (1 - progress) / done if done > 0 else None
