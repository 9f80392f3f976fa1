"""The live view of a run in the terminal."""

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text


class RunView:
    """Shows loss, learning rate, speed, scores and time left while a run goes on.

    In a terminal it redraws in place; elsewhere (a log file, CI) it prints one line a validation.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"), console=console,
        )  # fmt: skip
        self._task: TaskID = self._progress.add_task("training", total=1.0, left="")
        self._last: dict[str, float] = {}
        self._scores: list[tuple[float, float]] = []
        self._live = Live(self._draw(), console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> "RunView":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def phase(self, name: str) -> None:
        """Say what the run does now: 'training', 'validating'."""
        self._progress.update(self._task, description=name)
        self._refresh()

    def step(self, row: Mapping[str, float], remaining_s: float | None) -> None:
        """Show what the last steps gave."""
        self._last = dict(row)
        left = "" if remaining_s is None else f"{format_seconds(remaining_s)} left"
        self._progress.update(self._task, completed=row["progress"], left=left)
        self._refresh()

    def validation(self, row: Mapping[str, float], is_best: bool) -> None:
        """Show the scores of a validation."""
        self._scores.append((row["progress"], row["miou"]))
        self._console.print(
            f"{row['progress']:4.0%}  step {row['step']:>6.0f}  {format_seconds(row['elapsed_s']):>7}  "
            f"loss {self._last.get('loss', float('nan')):.3f}  val mIoU {100 * row['miou']:5.1f}  "
            f"{self._last.get('images_per_s', 0):.1f} images/s{'  best' if is_best else ''}",
            highlight=False,
        )
        self._refresh()

    def warn(self, sentence: str) -> None:
        """Say what goes wrong."""
        self._console.print(f"Warning   {sentence}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _refresh(self) -> None:
        if self._console.is_terminal:
            self._live.update(self._draw())

    def _draw(self) -> Group:
        row, scores = self._last, [score for _, score in self._scores]
        facts = {
            "step": f"{row['step']:.0f}" if row else "…",
            "loss": f"{row['loss']:.3f}" if row else "…",
            "learning rate": f"{row['learning_rate']:.1e}" if row else "…",
            "val mIoU": f"{100 * scores[-1]:.1f} (best {100 * max(scores):.1f})" if scores else "…",
            "images/s": f"{row['images_per_s']:.1f}" if row else "…",
            "waiting for data": f"{row['waiting_share']:.0%}" if row else "…",
        }
        line = Text()
        for name, value in facts.items():
            # Names and their values stay together where the line breaks.
            line.append(name.replace(" ", "\N{NO-BREAK SPACE}"), style="dim")
            line.append("\N{NO-BREAK SPACE}" + value.replace(" ", "\N{NO-BREAK SPACE}") + "   ")
        return Group(line, self._progress)


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3:05, 1:02:09."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes}:{whole % 60:02d}" if minutes else f"{whole} s"
