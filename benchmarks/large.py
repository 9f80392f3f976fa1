"""A 20,000 x 20,000 image in bounded memory: peak memory, the pace against the network alone, and equality.

- memory and pace: `segwright predict` in a process of its own on a tiled, compressed RGB TIFF, with a network of 20
  classes (its weights do not matter for either). The pace of the network alone is that of the same engine on one tile
  that is in memory, in a process of its own, before and after, once it has warmed up.
- equality: a trained segmenter on an image that fits both ways, in tiles and whole, in float32 and in the engine's own
  format.

    python benchmarks/large.py DATA RUN [--side 20000] [--network unet] [--work FOLDER]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from results import machine, write_row

import segwright
from segwright.data.encoding import MaskEncoding
from segwright.data.images import read_image
from segwright.inference.description import Description, Tiling
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter, build_network
from segwright.inference.tiles import cut_grid
from segwright.runtimes.torch import TorchEngine
from segwright.types import Classes

CLASSES, TILE = 20, 512
COMMAND = """
import sys
from pathlib import Path
from segwright.cli import main
sys.argv = ["segwright", "predict", *sys.argv[1:]]
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def write_image(path: Path, data: Path, side: int) -> None:
    """A large image of street scenes, each enlarged threefold, side by side."""
    scenes = [read_image(file) for file in sorted((data / "images" / "val").glob("*.png"))[:20]]
    scenes = [cv2.resize(scene, (1536, 1024), interpolation=cv2.INTER_CUBIC) for scene in scenes]

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                scene = scenes[(top // 1024 * 13 + left // 1536) % len(scenes)]
                yield np.ascontiguousarray(scene[top % 1024 :, left % 1536 :][:TILE, :TILE])

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", compression="zlib"
    )


def make_segmenter(network: str, folder: Path) -> None:
    """An untrained segmenter of 20 classes."""
    colors = tuple((10 * index, 200 - 10 * index, 90) for index in range(CLASSES))
    description = Description(
        network=network,
        arguments={"weights": "none"} if network != "ddrnet" else {},
        classes=Classes(tuple(f"class {index}" for index in range(CLASSES)), colors),
        encoding=MaskEncoding("index", tuple(range(CLASSES))),
        in_channels=3,
        dtype="uint8",
        mean=(110.0,) * 3,
        std=(70.0,) * 3,
    )
    Segmenter(build_network(description), description).eval().save(folder)


def tile_ms(folder: Path) -> float:
    """Median milliseconds of the engine on one tile in memory, in a process of its own."""
    code = (
        "import sys, time, statistics, numpy, segwright\n"
        "engine = segwright.load(sys.argv[1]).engine\n"
        "side = engine.description.tiling.tile\n"
        "tile = numpy.random.default_rng(0).integers(0, 256, (1, side, side, 3)).astype(numpy.uint8)\n"
        "seconds = []\n"
        "for _ in range(50):\n"
        "    started = time.perf_counter(); engine(tile, with_logits=True)\n"
        "    seconds.append(time.perf_counter() - started)\n"
        "print(1000 * statistics.median(seconds[20:]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def predict_large(image: Path, folder: Path, out: Path) -> tuple[float, float]:
    """Seconds of the whole command, and its largest resident memory in GB."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(folder), str(image), "--out", str(out)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    return time.monotonic() - started, int(done.stderr.split()[-1]) / 2**20


def equality(run: Path, data: Path) -> dict[str, Any]:
    """Share of equal pixels, tiled against whole, on an image of 1,440 x 1,920."""
    scene = read_image(sorted((data / "images" / "val").glob("*.png"))[0])
    image = cv2.resize(scene, (1920, 1440), interpolation=cv2.INTER_CUBIC)
    found: dict[str, Any] = {"equality_network": Segmenter.load(run).description.network}
    engines = {
        "fp32": TorchEngine(Segmenter.load(run), precision="fp32"),
        "default": segwright.load(run).engine,
    }
    for name, engine in engines.items():
        masks = []
        for tiling in (Tiling(whole_pixels=10**9), Tiling(whole_pixels=0)):
            _set_tiling(engine, tiling)
            masks.append(predict_image(engine, image).mask)
        found[f"equal_{name}_percent"] = round(100 * float((masks[0] == masks[1]).mean()), 4)
    return found


def _set_tiling(engine: Any, tiling: Tiling) -> None:  # noqa: ANN401 - any engine
    holder = engine._segmenter if isinstance(engine, TorchEngine) else engine
    holder.description = replace(holder.description, tiling=tiling)


def main() -> None:
    """A row in the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path, help="a trained segmenter, for the equality")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--work", type=Path, default=Path("runs/large"))
    arguments = parser.parse_args()
    work, side = arguments.work, arguments.side
    work.mkdir(parents=True, exist_ok=True)
    image, folder = work / f"{side}.tif", work / f"segmenter-{arguments.network}"
    if not image.exists():
        write_image(image, arguments.data, side)
    make_segmenter(arguments.network, folder)
    before = tile_ms(folder)
    seconds, memory_gb = predict_large(image, folder, work / "out")
    alone = statistics.mean([before, tile_ms(folder)])
    engine = segwright.load(folder).engine
    rows, columns = (len(axis) for axis in cut_grid(engine, (side, side)))
    made = json.loads((work / "out" / "classes.json").read_text())["made_by"]
    row = machine() | {
        "network": arguments.network,
        "classes": CLASSES,
        "side": side,
        "runtime": made["runtime"],
        "seconds": round(seconds, 1),
        "memory_gb": round(memory_gb, 2),
        "tiles": rows * columns,
        "tile_ms_alone": round(alone, 1),
        "tile_ms": round(1000 * seconds / (rows * columns), 1),
        "share_of_raw_pace_percent": round(100 * alone * rows * columns / 1000 / seconds, 1),
        **equality(arguments.run, arguments.data),
        "command": f"python benchmarks/large.py DATA RUN --side {side} --network {arguments.network}",
    }
    print(row)
    write_row(Path(__file__).with_suffix(".csv"), row)


if __name__ == "__main__":
    main()
