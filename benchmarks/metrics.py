"""Milliseconds of one confusion matrix: ours against torchmetrics, on the CPU.

Both count the same mask and prediction of 19 classes: regions with ragged contours, 5 % void, some pixels wrong.
torchmetrics takes bytes and int64, and with or without its checks of the values; ours takes bytes and always checks.
All take turns in one process; the figure is the median of the turns.

    python benchmarks/metrics.py [--size 1024,2048] [--turns 11] [--threads 2]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torchmetrics
from results import machine, write_row
from torchmetrics.functional.classification import multiclass_confusion_matrix

from segwright.metrics.confusion import confusion_matrix

RESULTS = Path(__file__).with_suffix(".csv")
CLASSES, VOID = 19, 255


def draw_masks(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a prediction as bytes."""
    generator = np.random.default_rng(0)
    rows, columns = np.indices((height, width), np.float32)
    # Cells of 64 pixels, each of one class, with contours that are shifted by a smooth random field.
    shifts = [cv2.resize(generator.normal(0, 12, (32, 64)).astype(np.float32), (width, height)) for _ in range(4)]
    classes = generator.integers(CLASSES, size=(height // 64 + 3, width // 64 + 3)).astype(np.uint8)
    mask, predicted = (
        classes[
            np.clip((rows + down) // 64 + 1, 0, classes.shape[0] - 1).astype(int),
            np.clip((columns + right) // 64 + 1, 0, classes.shape[1] - 1).astype(int),
        ]
        for down, right in ((shifts[0], shifts[1]), (shifts[0] + shifts[2] / 4, shifts[1] + shifts[3] / 4))
    )
    mask[classes.repeat(64, axis=0).repeat(64, axis=1)[:height, :width] == 0] = VOID
    return mask, predicted


def measure(runs: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median milliseconds of each, all in turn, after one turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(found), 2) for name, found in seconds.items()}


def main() -> None:
    """Compare the counts, take turns, add a row to the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1024,2048", help="height and width of the masks")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch and OpenCV")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    mask, predicted = draw_masks(*(int(side) for side in arguments.size.split(",")))

    runs: dict[str, Callable[[], object]] = {"ours": partial(confusion_matrix, mask, predicted, CLASSES)}
    for kind, dtype in (("uint8", torch.uint8), ("int64", torch.int64)):
        tensors = [torch.from_numpy(classes).to(dtype) for classes in (predicted, mask)]
        for checks in (True, False):
            runs[f"torchmetrics_{kind}{'' if checks else '_unchecked'}"] = partial(
                multiclass_confusion_matrix, *tensors, CLASSES, ignore_index=VOID, validate_args=checks
            )
    expected = runs["ours"]()
    for name, run in runs.items():
        if not np.array_equal(np.asarray(run()), expected):
            raise SystemExit(f"{name} counts something else")

    times = measure(runs, arguments.turns)
    fastest = {
        checks: min(value for name, value in times.items() if name[:5] == "torch" and ("unchecked" in name) != checks)
        for checks in (True, False)
    }
    row = machine() | {
        "threads": arguments.threads,
        "torchmetrics": torchmetrics.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "size": arguments.size.replace(",", "x"),
        "classes": CLASSES,
        "turns": arguments.turns,
        **{f"{name}_ms": value for name, value in times.items()},
        "ratio": round(fastest[True] / times["ours"], 2),
        "ratio_unchecked": round(fastest[False] / times["ours"], 2),
        "command": f"python benchmarks/metrics.py --size {arguments.size} --turns {arguments.turns} --threads "
        f"{arguments.threads}",
    }
    print(times)
    print(f"{row['ratio']} times as fast as torchmetrics, {row['ratio_unchecked']} times as fast without its checks")
    write_row(RESULTS, row)


if __name__ == "__main__":
    main()
