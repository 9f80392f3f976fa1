"""Validation mIoU after so many minutes: `segwright train` against a plain PyTorch loop.

Both start from scratch, read the same files, and stop when their minutes are over, everything included. Ours is
`segwright train DATA --minutes N` with nothing else. The plain loop is what a person writes in an afternoon around
segmentation_models_pytorch: its Unet with ResNet-34 at its defaults, Adam at 1e-3, cross-entropy, whole images padded
to multiples of 32, mirrored in half of the cases, batches of 8, a `DataLoader` with a worker, float32. Both are scored
by our evaluation at the images' original size. The plain loop's rate is constant, so that one run tells its score at
every time asked for: the clock stands still while it is scored on the way. What has a row already is left out, so the
script can be stopped and started again.

    python benchmarks/time_to_accuracy.py DATA [--minutes 10 30 60] [--only ours|plain] [--work FOLDER]
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from results import machine, read_rows, write_row
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from segwright.data.folder import Dataset as Folder
from segwright.data.folder import Pair
from segwright.data.inspection import inspect
from segwright.metrics.confusion import confusion_matrix, mean_iou
from segwright.training.logs import read_rows as read_log

RESULTS = Path(__file__).with_suffix(".csv")
BATCH, RATE, SIDE = 8, 1e-3, 32


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Whole images, mirrored in half of the cases."""

    def __init__(self, folder: Folder, pairs: list[Pair]) -> None:
        self.folder, self.pairs = folder, pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.folder.read(self.pairs[index])
        assert sample.mask is not None
        image, mask = pad(sample.image, sample.mask)
        if np.random.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return normalize(image), torch.from_numpy(mask.astype(np.int64))


def pad(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and void below and to the right, up to multiples of 32."""
    height, width = (-side % SIDE for side in image.shape[:2])
    padded = np.pad(image, ((0, height), (0, width), (0, 0)))
    void = np.full(image.shape[:2], 255, np.uint8) if mask is None else mask
    return padded, np.pad(void, ((0, height), (0, width)), constant_values=255)


def normalize(image: np.ndarray) -> Tensor:
    """Values from -1 to 1, channels first."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1


def train_plain(data: Path, marks: list[float]) -> Iterator[tuple[float, float, float]]:
    """Minutes asked for, score, and minutes taken, at each of the ascending marks."""
    started = time.monotonic()
    torch.manual_seed(0)
    folder = inspect(data).dataset
    assert folder.classes is not None
    num_classes = len(folder.classes)
    network = smp.Unet("resnet34", encoder_weights=None, classes=num_classes).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    cost = nn.CrossEntropyLoss(ignore_index=255)
    images = Images(folder, [pair for pair in folder.splits["train"] if pair.mask is not None])
    loader = DataLoader(
        images, BATCH, shuffle=True, num_workers=1, drop_last=len(images) >= BATCH, persistent_workers=True
    )
    score_s = measure_one(network, folder) * len(folder.splits["val"])  # kept for the validation
    batches = forever(loader)
    for minutes in marks:
        while time.monotonic() - started + score_s <= 60 * minutes:
            image, mask = next(batches)
            loss = cost(network(image), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        stopped = time.monotonic()
        miou = score(network, folder)
        yield minutes, miou, (time.monotonic() - started) / 60
        started += time.monotonic() - stopped
        network.train()


def forever(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def measure_one(network: nn.Module, folder: Folder) -> float:
    """Seconds that one image takes to read, predict and count."""
    network.eval()
    started = time.monotonic()
    count(network, folder, folder.splits["val"][0])
    network.train()
    return time.monotonic() - started


def score(network: nn.Module, folder: Folder) -> float:
    """The mIoU of all validation images."""
    network.eval()
    return float(mean_iou(np.sum([count(network, folder, pair) for pair in folder.splits["val"]], axis=0)))


def count(network: nn.Module, folder: Folder, pair: Pair) -> np.ndarray:
    """Confusion matrix of one image at its own size."""
    sample = folder.read(pair)
    assert sample.mask is not None
    assert folder.classes is not None
    height, width = sample.mask.shape
    with torch.inference_mode():
        logits = network(normalize(pad(sample.image)[0])[None])[0, :, :height, :width]
    return confusion_matrix(sample.mask, logits.argmax(0).numpy().astype(np.uint8), len(folder.classes))


def train_ours(data: Path, marks: list[float], work: Path) -> Iterator[tuple[float, float, float]]:
    """Minutes asked for, score at the last validation, which need not be the best, and minutes taken; a run a mark."""
    for minutes in marks:
        started = time.monotonic()
        run = work / f"{data.name}-{minutes:g}"
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "segwright.cli", "train", str(data), f"--minutes={minutes:g}"]
        subprocess.run([*command, "--out", str(run)], check=True, stdout=subprocess.DEVNULL)
        yield minutes, read_log(run / "validation.csv")[-1]["miou"], (time.monotonic() - started) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--only", choices=["ours", "plain"])
    parser.add_argument("--work", type=Path, default=Path("runs/time_to_accuracy"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    finished = {(row["data"], row["who"], float(row["minutes"])) for row in read_rows(RESULTS)}
    name = arguments.data.name
    for who in ("ours", "plain") if arguments.only is None else (arguments.only,):
        marks = sorted(minutes for minutes in arguments.minutes if (name, who, minutes) not in finished)
        times = " ".join(f"{minutes:g}" for minutes in marks)
        scores = (
            train_ours(arguments.data, marks, arguments.work) if who == "ours" else train_plain(arguments.data, marks)
        )
        for minutes, miou, took in scores:
            row = {
                "data": name,
                "who": who,
                "minutes": minutes,
                "val_miou": round(100 * miou, 1),
                "took_minutes": round(took, 2),
                "segmentation_models_pytorch": smp.__version__,
                "command": f"python benchmarks/time_to_accuracy.py DATA --minutes {times} --only {who}",
            }
            write_row(RESULTS, row | machine())
            print(row, flush=True)


if __name__ == "__main__":
    main()
