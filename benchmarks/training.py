"""Images per second in training: `segwright train` against a plain PyTorch loop on segmentation_models_pytorch.

Both train a U-Net on ResNet-34 with AdamW and cross-entropy, on batches of the same number of crops of the same size.
Ours is the whole command with its defaults: reading, random transforms, smoothed weights, clipping, logs. The plain
loop gets tensors that are ready in memory, and keeps the peer's defaults: float32, contiguous, `train()` and nothing
else. The two take turns in one process; the figure of a turn is the median of its steps without the first two.

    python benchmarks/training.py DATA [--turns 5] [--steps 10]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from results import machine, write_row

from segwright.recipe import load_recipe
from segwright.run import train
from segwright.training.logs import read_rows

BATCH, CROP, WARM_UP = 4, (352, 480), 2


def time_ours(data: Path, steps: int) -> float:
    """Images per second of our defaults, from the log that every run writes."""
    settings = [
        "network=unet",
        "network.weights=none",
        f"train.steps={steps}",
        f"train.batch_size={BATCH}",
        f"transform.crop=[{CROP[0]},{CROP[1]}]",
        "train.log_s=0",
        "train.validations=1",
    ]
    with tempfile.TemporaryDirectory() as folder:
        train(load_recipe(None, settings, data=str(data)), Path(folder) / "run")
        rows = read_rows(Path(folder) / "run" / "log.csv")
    return statistics.median(row["images_per_s"] for row in rows[WARM_UP:])


def time_plain(steps: int, num_classes: int) -> float:
    """Images per second of the plain loop."""
    torch.manual_seed(0)
    network = smp.Unet("resnet34", encoder_weights=None, classes=num_classes).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image = torch.randn(BATCH, 3, *CROP)
    mask = torch.randint(0, num_classes, (BATCH, *CROP))
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(network(image), mask)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    return BATCH / statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Take turns, print the ratio, append a row to the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set with color images of at least 352x480")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    ours, plain = [], []
    for turn in range(arguments.turns):
        ours.append(time_ours(arguments.data, arguments.steps))
        plain.append(time_plain(arguments.steps, 11))
        print(f"turn {turn + 1}: ours {ours[-1]:.2f}, plain {plain[-1]:.2f} images/s", flush=True)
    row = machine() | {
        "amx": torch.cpu._is_amx_tile_supported(),
        "segmentation_models_pytorch": smp.__version__,
        "batch": BATCH,
        "crop": f"{CROP[0]}x{CROP[1]}",
        "turns": arguments.turns,
        "ours_images_per_s": round(statistics.median(ours), 3),
        "plain_images_per_s": round(statistics.median(plain), 3),
        "ratio": round(statistics.median(a / b for a, b in zip(ours, plain, strict=True)), 2),
        "command": f"python benchmarks/training.py DATA --turns {arguments.turns} --steps {arguments.steps}",
    }
    print(f"{row['ratio']} times as fast")
    write_row(Path(__file__).with_suffix(".csv"), row)


if __name__ == "__main__":
    main()
