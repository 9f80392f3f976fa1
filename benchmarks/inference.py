"""Milliseconds a prediction: what `segwright.load` gives by default against segmentation_models_pytorch as it comes.

For each run (a U-Net or a DeepLabV3+ on ResNet-34, trained on DATA) its int8 exports are made, and then take turns:

- ours: `segmenter.predict(image)` on the engine that "auto" chooses, from the pixels of a file to the mask;
- int8: the same for the export to OpenVINO;
- onnx_int8: the same for the export to ONNX, on ONNX Runtime;
- peer: the same network of segmentation_models_pytorch, eager, float32, `inference_mode`, from ready tensor to logits;
- by hand: the peer's network converted to OpenVINO for this one size, as its documentation says, from a ready tensor
  to logits, with OpenVINO's own choice of the number format;
- own_by_hand: the same with our network, since ours and the peer's DeepLabV3+ differ: the paper's decoder has two 3 x 3
  convolutions, the peer's one.

So the last three do less: no normalization, no choice of the class. Equal pixels are counted on validation images of
DATA at their own size, against the segmenter in PyTorch and float32.

    python benchmarks/inference.py DATA RUN [RUN ...] [--turns 15] [--size 512]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import openvino
import segmentation_models_pytorch as smp
import torch
from results import machine, write_row

import segwright
from segwright.data.images import read_image
from segwright.deployment.export import ExportRefusedError, export
from segwright.deployment.proof import compare, measure
from segwright.deployment.samples import proof_samples
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.openvino import OFTEN
from segwright.runtimes.torch import TorchEngine

PEERS = {"unet": smp.Unet, "deeplabv3plus": smp.DeepLabV3Plus}
IMAGES = 32
WARM_UP = OFTEN + 2


def by_hand(network: torch.nn.Module, tensor: torch.Tensor) -> Callable[[], object]:
    """A network converted to OpenVINO as its documentation says, on a ready tensor."""
    converted = openvino.convert_model(network.eval(), example_input=tensor, input=list(tensor.shape))
    return partial(openvino.compile_model(converted, "CPU"), tensor.numpy())


def peers(name: str, segmenter: Segmenter, size: int) -> dict[str, Callable[[], object]]:
    """The peer's network, and what a user of OpenVINO makes of it and of ours."""
    network = PEERS[name]("resnet34", encoder_weights=None, classes=len(segmenter.classes)).eval()
    tensor = torch.randn(1, 3, size, size)

    def eager() -> None:
        with torch.inference_mode():
            network(tensor)

    return {"peer": eager, "by_hand": by_hand(network, tensor), "own_by_hand": by_hand(segmenter.network, tensor)}


def take_turns(entries: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median milliseconds of each, after rounds that do not count, in which engines take a form for this one size."""
    seconds: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(turns + WARM_UP):
        for name, run in entries.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(found[WARM_UP:]) for name, found in seconds.items()}


def measure_run(run: Path, data: Path, size: int, turns: int) -> dict[str, Any]:
    """The row of one run."""
    segmenter = Segmenter.load(run)
    name = segmenter.description.network
    samples = proof_samples(segmenter.description, run, data, IMAGES)
    image = cv2.resize(read_image(next(iter((data / "images" / "val").glob("*.png")))), (size, size))
    reference = measure(TorchEngine(segmenter, precision="fp32"), samples)
    ours = segwright.load(run)
    entries: dict[str, Callable[[], object]] = {"ours": partial(ours.predict, image)}
    proofs = {"ours": compare(reference, measure(ours.engine, samples), "bf16")}
    row: dict[str, Any] = {"network": name, "classes": len(segmenter.classes), "size": size, "runtime": ours.runtime}
    with tempfile.TemporaryDirectory() as folder:
        for key, to in (("int8", "openvino"), ("onnx_int8", "onnx")):
            try:
                export(run, Path(folder) / key, to=to, precision="int8", data=data)
            except ExportRefusedError as error:
                row[f"{key}_problem"] = str(error)
            else:
                small = segwright.load(Path(folder) / key)
                entries[key] = partial(small.predict, image)
                proofs[key] = compare(reference, measure(small.engine, samples), "int8")
        entries |= peers(name, segmenter, size)
        found = take_turns(entries, turns)
    row |= {f"{key}_ms": round(value, 1) for key, value in found.items()}
    for key in proofs:
        row[f"{key}_times_as_fast"] = round(found["peer"] / found[key], 2)
        row[f"{key}_to_by_hand"] = round(found["by_hand"] / found[key], 2)
        row[f"{key}_to_own_by_hand"] = round(found["own_by_hand"] / found[key], 2)
    for key, proof in proofs.items():
        row[f"{key}_equal_percent"] = round(100 * proof.equal, 3)
        row[f"{key}_delta_miou"] = None if proof.delta_miou is None else round(proof.delta_miou, 3)
    return row | {"val_miou": None if reference.miou is None else round(reference.miou, 1)}


def main() -> None:
    """A row for each run in the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    for run in arguments.runs:
        row = measure_run(run, arguments.data, arguments.size, arguments.turns)
        print(row, flush=True)
        versions = {"openvino": openvino.__version__.split("-")[0], "segmentation_models_pytorch": smp.__version__}
        command = f"python benchmarks/inference.py DATA RUN --turns {arguments.turns} --size {arguments.size}"
        amx = {"amx": torch.cpu._is_amx_tile_supported()}
        write_row(Path(__file__).with_suffix(".csv"), machine() | amx | versions | row | {"command": command})


if __name__ == "__main__":
    main()
