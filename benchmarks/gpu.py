"""What a GPU adds: steps in float32 against bfloat16 compiled channels-last, and the score after minutes.

Three verbs, so that each fits a machine that is lent for minutes:

    python benchmarks/gpu.py pack DATA FOLDER            a copy with JPEG images and PNG masks, a tenth of the size
    python benchmarks/gpu.py speed [--networks NAME …]   images/s and memory of a step, both ways, alternating
    python benchmarks/gpu.py train DATA --minutes 20 --sitting 9 --work FOLDER [network=fc_densenet103 …]

`train` stops after `--sitting` minutes and goes on when it is called again with the same folder; the row is written
when the minutes are over. All rows go to `gpu.csv`. Without a GPU the CPU stands in, for a try.
"""

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import torch
from results import machine, write_row

from segwright import parts
from segwright.data.folder import find_pairs
from segwright.data.images import read_image
from segwright.run_folder import RECIPE
from segwright.training.logs import read_rows

RESULTS = Path(__file__).with_suffix(".csv")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUALITY, CLASSES, TURNS, STEPS, WARM_UP = 92, 11, 5, 10, 4


def pack(data: Path, folder: Path) -> None:
    """Copy a data set with its images as JPEG; masks and the description stay as they are."""
    for split, pairs in find_pairs(data).splits.items():
        for pair in pairs:
            if pair.mask is None:
                continue
            places = [folder / kind / split / pair.name for kind in ("images", "masks")]
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
            pixels = cv2.cvtColor(read_image(pair.image), cv2.COLOR_RGB2BGR)
            cv2.imwrite(f"{places[0]}.jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            shutil.copy(pair.mask, f"{places[1]}{pair.mask.suffix}")
    if (data / "dataset.yaml").is_file():
        shutil.copy(data / "dataset.yaml", folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


class Trainer:
    """A network and its optimizer, in float32 as torch does by default, or in the fast way."""

    def __init__(self, name: str, batch_size: int, crop: tuple[int, int], *, is_fast: bool) -> None:
        settings = parts.expand("network", {"name": name})
        arguments = {key: value for key, value in settings.items() if key != "name"} | {"weights": "none"}
        known = parts.arguments_model("network", settings["name"]).model_fields
        arguments = {key: value for key, value in arguments.items() if key in known}
        torch.manual_seed(0)
        network = parts.build("network", settings["name"], arguments, in_channels=3, num_classes=CLASSES)
        layout = torch.channels_last if is_fast else torch.contiguous_format
        self.network = network.to(DEVICE, memory_format=layout).train()
        self.forward = torch.compile(self.network) if is_fast else self.network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=is_fast)
        self.image = torch.randn(batch_size, 3, *crop, device=DEVICE).to(memory_format=layout)
        self.mask = torch.randint(CLASSES, (batch_size, *crop), device=DEVICE)
        self.is_fast = is_fast

    def step(self) -> float:
        """Seconds of one step."""
        synchronize()
        started = time.perf_counter()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.is_fast):
            loss = torch.nn.functional.cross_entropy(self.forward(self.image).float(), self.mask)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize()
        return time.perf_counter() - started


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure_speed(name: str, batch_size: int, crop: tuple[int, int], turns: int = TURNS) -> dict[str, object]:
    """Medians of both ways in turns, and the peak of memory of each."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    memory: dict[bool, int] = {False: 0, True: 0}
    for turn in range(turns):
        for is_fast in (False, True):
            if DEVICE == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            trainer = Trainer(name, batch_size, crop, is_fast=is_fast)
            times = [trainer.step() for _ in range(WARM_UP + STEPS)]
            seconds[is_fast].append(statistics.median(times[WARM_UP:]))
            if DEVICE == "cuda":
                memory[is_fast] = torch.cuda.max_memory_allocated()
            del trainer
        print(f"{name}, turn {turn + 1}: {seconds[False][-1]:.4f} s, {seconds[True][-1]:.4f} s", flush=True)
    plain, fast = (statistics.median(seconds[is_fast]) for is_fast in (False, True))
    return {
        "what": "speed",
        "network": name,
        "batch": batch_size,
        "crop": f"{crop[0]}x{crop[1]}",
        "fp32_images_per_s": round(batch_size / plain, 1),
        "fast_images_per_s": round(batch_size / fast, 1),
        "ratio": round(statistics.median(a / b for a, b in zip(seconds[False], seconds[True], strict=True)), 2),
        "fp32_gb": round(memory[False] / 1e9, 2),
        "fast_gb": round(memory[True] / 1e9, 2),
        "command": f"python benchmarks/gpu.py speed --networks {name} --batch {batch_size}",
    }


def train(data: Path, minutes: float, sitting: float, run: Path, settings: list[str]) -> dict[str, object] | None:
    """One sitting of a run; its row if the run is over."""
    command = [sys.executable, "-m", "segwright.cli", "train"]
    begun = (run / RECIPE).is_file()
    goal = ["--resume", run] if begun else [data, *settings, "--minutes", minutes, "--out", run]
    process = subprocess.Popen([*command, *map(str, goal)])
    try:
        status = process.wait(60 * sitting)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # the run writes its checkpoint and ends
        status = process.wait()
    if status in (130, -signal.SIGTERM):  # stopped, perhaps before its first step; the next sitting goes on
        return None
    if status:
        raise SystemExit(f"training ended with status {status}")
    validations, log = read_rows(run / "validation.csv"), read_rows(run / "log.csv")
    return {
        "what": "train",
        "network": " ".join(settings),
        "minutes": minutes,
        "val_miou": round(100 * validations[-1]["miou"], 1),
        "best_val_miou": round(100 * max(row["miou"] for row in validations), 1),
        "train_images_per_s": round(statistics.median(row["images_per_s"] for row in log), 1),
        "command": f"python benchmarks/gpu.py train DATA --minutes {minutes:g} {' '.join(settings)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack")
    packing.add_argument("data", type=Path)
    packing.add_argument("folder", type=Path)
    speed = verbs.add_parser("speed")
    speed.add_argument("--networks", nargs="+", default=["unet", "deeplabv3plus", "fc_densenet103", "ddrnet"])
    speed.add_argument("--batch", type=int, default=16)
    speed.add_argument("--crop", type=int, nargs=2, default=[352, 480])
    speed.add_argument("--turns", type=int, default=TURNS)
    speed.add_argument("--out", type=Path, default=RESULTS, help="table to add to")
    training = verbs.add_parser("train")
    training.add_argument("data", type=Path)
    training.add_argument("settings", nargs="*")
    training.add_argument("--minutes", type=float, default=20)
    training.add_argument("--sitting", type=float, default=9)
    training.add_argument("--work", type=Path, default=Path("runs/gpu"))
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "none"
    if arguments.verb == "pack":
        pack(arguments.data, arguments.folder)
    elif arguments.verb == "speed":
        crop = (arguments.crop[0], arguments.crop[1])
        for name in arguments.networks:
            row = measure_speed(name, arguments.batch, crop, arguments.turns)
            write_row(arguments.out, {"gpu": device} | row | machine())
    else:
        row = train(arguments.data, arguments.minutes, arguments.sitting, arguments.work, arguments.settings)
        if row is not None:
            write_row(RESULTS, {"gpu": device} | row | machine())


if __name__ == "__main__":
    main()
