"""Every network, trained from scratch for the same few minutes on the same data, then run on three engines.

What a row says: the validation score after the minutes, how fast training was and how much memory it took, and for the
trained network the time of one validation image in PyTorch (float32), ONNX Runtime and OpenVINO (float32 and the
engine's own choice), with the share of pixels whose class equals PyTorch's. One network is trained at a time, in a
process of its own. A network that has a row already is left out, so the script can be stopped and started again.

    python benchmarks/zoo.py DATA [--minutes 4] [--crop 160,224] [--every 4] [--only NAME ...] [--work FOLDER]
"""

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from results import machine, read_rows, write_row
from subset import thin_out

from segwright import parts
from segwright.data.folder import find_pairs
from segwright.data.images import read_image
from segwright.inference.segmenter import Segmenter
from segwright.training.logs import read_rows as read_log

RESULTS = Path(__file__).with_suffix(".csv")
IMAGES = 5
"""Validation images that the engines are compared and timed on."""


def train_one(name: str, data: Path, run: Path, settings: list[str]) -> float:
    """Train one network by the command line; its largest resident memory in GB."""
    command = [sys.executable, "-m", "segwright.cli", "train", str(data), f"network={name}", *settings]
    process = subprocess.Popen([*command, "--out", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    message = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        lines = message.strip().splitlines() or [f"it ended with status {status}, perhaps for want of memory"]
        raise RuntimeError(lines[-1])
    return usage.ru_maxrss / 1e6


def deploy(segmenter: Segmenter, images: list[np.ndarray], folder: Path) -> dict[str, Any]:
    """Milliseconds an image and share of equal pixels on each engine."""
    stride = segmenter.stride
    batches = [torch.from_numpy(_whole_cells(image, stride)).permute(2, 0, 1)[None] for image in images]
    with torch.no_grad():
        expected = [segmenter(batch).argmax(1).numpy() for batch in batches]
        file = folder / "network.onnx"
        torch.onnx.export(torch.export.export(segmenter, (batches[0],)), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file)
    exact = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    free = openvino.compile_model(file, "CPU")
    engines: dict[str, Callable[[torch.Tensor], np.ndarray]] = {
        "torch": lambda batch: segmenter(batch).numpy(),
        "onnxruntime": lambda batch: session.run(None, {"image": batch.numpy()})[0],
        "openvino_fp32": lambda batch: exact(batch.numpy())[0],
        "openvino": lambda batch: free(batch.numpy())[0],
    }
    found: dict[str, Any] = {}
    for engine, run in engines.items():
        with torch.no_grad():
            run(batches[0])
            seconds, equal = [], []
            for batch, classes in zip(batches, expected, strict=True):
                started = time.perf_counter()
                logits = run(batch)
                seconds.append(time.perf_counter() - started)
                equal.append((logits.argmax(1) == classes).mean())
        found[f"{engine}_ms"] = round(1000 * statistics.median(seconds), 1)
        if engine != "torch":
            found[f"{engine}_equal_percent"] = round(100 * float(np.mean(equal)), 3)
    return found


def _whole_cells(image: np.ndarray, stride: int) -> np.ndarray:
    """Cut to sides that the network takes."""
    height, width = (side // stride * stride for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


def measure_one(name: str, data: Path, work: Path, settings: list[str]) -> dict[str, Any]:
    """The row of one network."""
    run = work / name
    memory_gb = train_one(name, data, run, settings)
    log, validations = read_log(run / "log.csv"), read_log(run / "validation.csv")
    segmenter = Segmenter.load(run / "segmenter").eval()
    images = [read_image(pair.image) for pair in find_pairs(data).splits["val"][:IMAGES]]
    return {
        "val_miou": round(100 * validations[-1]["miou"], 1),
        "steps": int(log[-1]["step"]),
        "train_images_per_s": round(statistics.median(row["images_per_s"] for row in log), 2),
        "train_memory_gb": round(memory_gb, 2),
        "parameters": sum(parameter.numel() for parameter in segmenter.network.parameters()),
    } | deploy(segmenter, images, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--crop", default="160,224", help="height and width of the training crops")
    parser.add_argument("--every", type=int, default=4, help="validate on every n-th image")
    parser.add_argument("--only", nargs="*", help="names of networks or variants; all networks if left out")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder of the runs")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    data = thin_out(arguments.data.resolve(), arguments.every, arguments.work / "data")
    settings = [
        f"train.minutes={arguments.minutes}",
        "train.batch_size=4",
        f"transform.crop=[{arguments.crop}]",
        "train.validations=1",
    ]
    for name in arguments.only or parts.list_parts("network"):
        if name in finished():
            continue
        shutil.rmtree(arguments.work / name, ignore_errors=True)
        try:
            row = measure_one(name, data, arguments.work, settings) | {"problem": ""}
        except (RuntimeError, ValueError) as error:
            row = {"problem": str(error).splitlines()[0]}
        write_row(
            RESULTS,
            {"network": name}
            | machine()
            | {
                "minutes": arguments.minutes,
                "crop": arguments.crop.replace(",", "x"),
                "val_images": len(find_pairs(data).splits["val"]),
            }
            | row
            | {
                "command": shlex.join(["python", "benchmarks/zoo.py", "DATA", *settings_given(arguments)]),
            },
        )
        print(name, row, flush=True)


def settings_given(arguments: argparse.Namespace) -> list[str]:
    """The options that a row depends on, as they are typed."""
    options = {"minutes": f"{arguments.minutes:g}", "crop": arguments.crop, "every": str(arguments.every)}
    return [part for name, value in options.items() for part in (f"--{name}", value)]


def finished() -> set[str]:
    """Networks that have a row."""
    return {row["network"] for row in read_rows(RESULTS)}


if __name__ == "__main__":
    main()
