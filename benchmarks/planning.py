"""What the planner's choices are worth: each row is the plan with one choice changed, trained for the same minutes.

The first rows of a data set are the plan as it is, with several seeds: their spread says which differences mean
something. Street scenes are scored by mIoU on every fourth validation image; membranes by mIoU and V_Rand on a held-out
quarter of the slices. One network is trained at a time, in a process of its own. A change that has a row already is
left out, so the script can be stopped and started again.

    python benchmarks/planning.py DATA --kind street|membrane [--minutes 2] [--work FOLDER]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from results import machine, read_rows, write_row
from subset import thin_out

from segwright.training.logs import read_rows as read_log

RESULTS = Path(__file__).with_suffix(".csv")
EVERY = 4

STREET = {
    "seed": ["train.seed=0", "train.seed=1", "train.seed=2"],
    "network": ["network=unet network.encoder=resnet18 network.weights=none", "network=bisenet", "network=segformer"],
    "resolution": ["transform.crop=[192,256]", "transform.crop=[352,480]", "transform.scale=[0.5,0.75]"],
    "batch": ["train.batch_size=2", "train.batch_size=8"],
    "optimizer": ["optimizer.lr=0.001", "optimizer.lr=0.005", "optimizer=sgd", "optimizer.weight_decay=0.05"],
    "schedule": ["schedule=cosine", "schedule=one_cycle"],
    "average": ["train.average=none", "train.average=swa"],
    "augmentation": [
        "transform.light=0 transform.color=0 transform.noise=0",
        "transform.scale=[1,1] transform.rotation_degrees=0",
        "transform.scale=[0.5,2]",
        "transform.rare_crops=0.5",
        "transform.mix=classmix",
    ],
    "loss": [
        "loss=cross_entropy loss.cross_entropy.balance=inverse_log",
        "loss=cross_entropy loss.cross_entropy.balance=median_frequency",
        "loss=cross_entropy+dice",
        "loss=cross_entropy+lovasz_softmax",
        "loss=focal_dice",
        "loss=ohem_cross_entropy",
    ],
}
MEMBRANE = {
    "seed": ["train.seed=0", "train.seed=1"],
    "network": ["network=ddrnet", "network=unet network.encoder=resnet34 network.weights=none"],
    "resolution": ["transform.crop=[256,256]", "transform.crop=[512,512]"],
    "batch": ["train.batch_size=2"],
    "optimizer": ["optimizer.lr=0.001", "optimizer.lr=0.005"],
    "average": ["train.average=none"],
    "augmentation": [
        "transform.elastic_px=0",
        "transform.elastic_px=8",
        "transform.light=0 transform.noise=0",
    ],
    "loss": [
        "loss=cross_entropy loss.cross_entropy.balance=inverse_log",
        "loss=cross_entropy+dice",
        "loss=border_cross_entropy",
    ],
}
"""Changes of the plan by what they change."""


def measure(data: Path, run: Path, settings: list[str], *, membrane: bool) -> dict[str, Any]:
    """Train and score; what the row says."""
    shutil.rmtree(run, ignore_errors=True)
    segwright = [sys.executable, "-m", "segwright.cli"]
    command = [*segwright, "train", str(data), *settings, "train.validations=1", "--out", str(run)]
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        return {"problem": (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
    log, scores = read_log(run / "log.csv"), read_log(run / "validation.csv")[-1]
    row: dict[str, Any] = {
        "val_miou": round(100 * scores["miou"], 2),
        "steps": int(log[-1]["step"]),
        "images_per_s": round(statistics.median(line["images_per_s"] for line in log), 2),
    }
    if membrane:
        told = subprocess.run(
            [*segwright, "evaluate", str(run), str(data), "--metrics", "membrane", "--json"],
            check=True,
            capture_output=True,
            text=True,
        )
        row |= {"v_rand": round(json.loads(told.stdout)["metrics"]["membrane"]["v_rand"]["value"], 4)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kind", choices=["street", "membrane"], required=True)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/planning"))
    arguments = parser.parse_args()
    is_membrane = arguments.kind == "membrane"
    name, data = arguments.data.name, arguments.data.resolve()
    if not is_membrane:
        data = thin_out(data, EVERY, arguments.work / name)
    finished = {(row["data"], row["changed"], float(row["minutes"])) for row in read_rows(RESULTS)}
    for topic, changes in (MEMBRANE if is_membrane else STREET).items():
        for change in changes:
            if (name, change, arguments.minutes) in finished:
                continue
            settings = [f"train.minutes={arguments.minutes:g}", *change.split()]
            settings += ["train.folds=4", "train.fold=1"] if is_membrane else []
            row = measure(data, arguments.work / "run", settings, membrane=is_membrane)
            key = {"data": name, "topic": topic, "changed": change, "minutes": arguments.minutes}
            options = f"--kind {arguments.kind} --minutes {arguments.minutes:g}"
            command = {"command": f"python benchmarks/planning.py DATA {options}"}
            write_row(RESULTS, key | row | command | machine())
            print(topic, change, row, flush=True)


if __name__ == "__main__":
    main()
