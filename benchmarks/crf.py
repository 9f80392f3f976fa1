"""Seconds of a dense CRF: ours against pydensecrf2, on the CPU.

Both refine the same made-up probabilities for the same photograph, from the probabilities to the mean field, lattices
included, with the settings of DeepLab v2 and with those of the authors' example. They take turns in one process; the
figure is the median of the turns, once of the clock (_s) and once of what all cores spent (_cpu_s), as ours uses all of
them and pydensecrf2 one. The load is the number of processes that were running on average in the last minute; above
1 or 2 the machine was busy with other work too, and the cores say more than the clock. Without pydensecrf2 (pip install
pydensecrf2) ours is measured alone.

How far the two are apart is said of a part of the image: of the bilateral kernel alone, where both have the same
lattice, the largest difference of a probability; of both kernels, where ours smooths with the exact Gaussian, how many
pixels get the same class.

    python benchmarks/crf.py [--size 512] [--classes 19] [--iterations 5] [--turns 11]
"""

import argparse
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy
from results import machine, write_row
from skimage import data

from segwright.inference.crf import DenseCRF

RESULTS = Path(__file__).with_suffix(".csv")
SETTINGS = {
    "DeepLab v2": DenseCRF(),
    "example": DenseCRF(
        bilateral_weight=10, bilateral_sigma_px=80, color_sigma=13, smoothness_weight=3, smoothness_sigma_px=3
    ),
}
PART = (slice(0, 96), slice(160, 288))  # of a face and what is behind it


def draw_probabilities(size: int, num_classes: int) -> np.ndarray:
    """Smooth regions with noise, as (K, H, W)."""
    generator = np.random.default_rng(0)
    logits = np.stack(
        [
            cv2.resize(generator.normal(0, 3, (10, 10)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
            + generator.normal(0, 1, (size, size)).astype(np.float32)
            for _ in range(num_classes)
        ]
    )
    powers = np.exp(logits - logits.max(axis=0))
    return np.ascontiguousarray(powers / powers.sum(axis=0))


def refine_with_pydensecrf(crf: DenseCRF, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    num_classes, height, width = probabilities.shape
    theirs = DenseCRF2D(width, height, num_classes)
    theirs.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-5)).reshape(num_classes, -1))
    if crf.smoothness_weight:
        theirs.addPairwiseGaussian(sxy=crf.smoothness_sigma_px, compat=crf.smoothness_weight)
    theirs.addPairwiseBilateral(
        sxy=crf.bilateral_sigma_px, srgb=crf.color_sigma, rgbim=image, compat=crf.bilateral_weight
    )
    return np.array(theirs.inference(crf.iterations)).reshape(probabilities.shape)


def measure(runs: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of each by the clock and of the cores, all in turn, after one turn that does not count."""
    seconds: dict[str, list[float]] = {f"{name}_{kind}": [] for name in runs for kind in ("s", "cpu_s")}
    for turn in range(turns + 1):
        for name, run in runs.items():
            started = time.perf_counter(), time.process_time()
            run()
            if turn:
                seconds[f"{name}_s"].append(time.perf_counter() - started[0])
                seconds[f"{name}_cpu_s"].append(time.process_time() - started[1])
    return {name: round(statistics.median(found), 3) for name, found in seconds.items()}


def compare(crf: DenseCRF, image: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How far ours and theirs are apart on a part of the image."""
    image, probabilities = np.ascontiguousarray(image[PART]), np.ascontiguousarray(probabilities[:, *PART])
    bilateral = replace(crf, smoothness_weight=0)
    apart = np.abs(bilateral.refine(image, probabilities) - refine_with_pydensecrf(bilateral, image, probabilities))
    ours, theirs = (refine(crf, image, probabilities) for refine in (DenseCRF.refine, refine_with_pydensecrf))
    return {
        "bilateral_difference": float(f"{apart.max():.1e}"),
        "same_class_%": round(100 * float((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean()), 2),
    }


def main() -> None:
    """Take turns and compare for each of the settings, add a row to the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels, at least 288")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--turns", type=int, default=11)
    arguments = parser.parse_args()
    has_peer = importlib.util.find_spec("pydensecrf") is not None
    if not has_peer:
        print("pydensecrf2 is not installed: ours is measured alone")
    image = cv2.resize(data.astronaut(), (arguments.size, arguments.size), interpolation=cv2.INTER_AREA)
    probabilities = draw_probabilities(arguments.size, arguments.classes)

    for name, setting in SETTINGS.items():
        crf = replace(setting, iterations=arguments.iterations)
        runs: dict[str, Callable[[], object]] = {"ours": partial(crf.refine, image, probabilities)}
        if has_peer:
            runs["pydensecrf2"] = partial(refine_with_pydensecrf, crf, image, probabilities)
        times = measure(runs, arguments.turns)
        row: dict[str, Any] = machine() | {
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "opencv": cv2.__version__,
            "setting": name,
            "size": f"{arguments.size}x{arguments.size}",
            "classes": arguments.classes,
            "iterations": arguments.iterations,
            "turns": arguments.turns,
            "load": round(os.getloadavg()[0], 1),
            **times,
        }
        print(name, times)
        if has_peer:
            row |= {
                "pydensecrf2": importlib.metadata.version("pydensecrf2"),
                "ratio": round(times["pydensecrf2_s"] / times["ours_s"], 2),
                "cpu_ratio": round(times["pydensecrf2_cpu_s"] / times["ours_cpu_s"], 2),
                **compare(crf, image, probabilities),
            }
            print(f"{row['ratio']} times as fast; {row['same_class_%']} % of the pixels get the same class")
        row["command"] = (
            f"python benchmarks/crf.py --size {arguments.size} --classes {arguments.classes} "
            f"--iterations {arguments.iterations} --turns {arguments.turns}"
        )
        write_row(RESULTS, row)


if __name__ == "__main__":
    main()
