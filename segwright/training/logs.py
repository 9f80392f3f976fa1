"""The written record of a run: two CSV files and TensorBoard events."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from segwright.files import write_whole

STEP_COLUMNS = (
    "step", "progress", "elapsed_s", "loss", "learning_rate", "gradient_norm", "images_per_s", "waiting_share",
)  # fmt: skip
VALIDATION_COLUMNS = ("step", "progress", "elapsed_s", "miou", "mean_dice", "pixel_accuracy")


class RunLog:
    """Appends rows to `log.csv` and `validation.csv` in a run folder, and to TensorBoard beside them.

    Args:
        folder: The run folder.
        step: Step that the run goes on from; rows of later steps, which a killed sitting left, are dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        # TensorBoard takes half a second to import, which only a run should pay.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._files = {
            "log": (folder / "log.csv", STEP_COLUMNS),
            "validation": (folder / "validation.csv", VALIDATION_COLUMNS),
        }
        for path, columns in self._files.values():
            _keep_rows_until(path, columns, step)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step if step else None)

    def step(self, row: Mapping[str, float]) -> None:
        """Record what a step gave; `row` has the columns of `STEP_COLUMNS`."""
        self._append("log", row)

    def validation(self, row: Mapping[str, float]) -> None:
        """Record what a validation gave; `row` has the columns of `VALIDATION_COLUMNS`."""
        self._append("validation", row)

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self._events.close()

    def _append(self, name: str, row: Mapping[str, float]) -> None:
        path, columns = self._files[name]
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow({key: f"{value:.6g}" for key, value in row.items()})
        for key, value in row.items():
            if key not in ("step", "progress", "elapsed_s"):
                self._events.add_scalar(f"{name}/{key}", value, int(row["step"]))


def read_rows(path: Path) -> list[dict[str, float]]:
    """Rows of one of the CSV files as numbers; none if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        # The last row of a killed run may be cut anywhere.
        whole = [row for row in csv.DictReader(file) if all(row.values()) and None not in row]
        return [{key: float(value) for key, value in row.items()} for row in whole]


def _keep_rows_until(path: Path, columns: tuple[str, ...], step: int) -> None:
    rows = [row for row in read_rows(path) if row["step"] <= step]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows([{key: f"{value:.6g}" for key, value in row.items()} for row in rows])
    write_whole(path, text.getvalue().encode())
