"""Random training views per second: Segwright's transform against albumentations and torchvision.

Each library gets the same images of 720 x 960 in 8-bit color with their masks and makes crops of 360 x 480 of them:
scale from a half to two, up to 10 degrees of rotation, a flip in half of the cases, and changes of brightness,
contrast, saturation and hue, in the order that its documentation shows, with the crop as early as it can be. Noise is
off. The steps of the others are separate, so they warp the whole image before they crop. The libraries take turns in
one process, with one or two threads of ours, as training uses them, and one thread inside each call. The figure is the
median over the turns.

    pip install albumentations
    python benchmarks/transforms.py [--turns 7] [--views 64]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from results import machine, write_row
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from segwright.transforms.image import ImageTransform
from segwright.types import IGNORE_LABEL, Sample

RESULTS = Path(__file__).with_suffix(".csv")
SIZE, CROP = (720, 960), (360, 480)
SCALE, DEGREES = (0.5, 2.0), 10.0
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.125, 0.125, 0.25, 0.014

View = Callable[[np.ndarray, np.ndarray, int], object]
"""Makes a random view of an image and its mask; the number is that of the sample in the stream."""


def make_segwright() -> View:
    transform = ImageTransform(
        crop=CROP, scale=SCALE, rotation_degrees=DEGREES, flip_horizontal=True, light=0.5, color=0.25, noise=0.0
    )
    return lambda image, mask, number: transform(Sample("", image, mask), np.random.default_rng((0, 1, number)))


def make_albumentations() -> View:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version
    import albumentations as A

    chain = A.Compose(
        [
            A.Affine(
                scale=SCALE,
                keep_ratio=True,
                balanced_scale=True,  # as often smaller as larger
                rotate=(-DEGREES, DEGREES),
                border_mode=cv2.BORDER_REFLECT_101,
                p=1,
            ),
            A.RandomCrop(*CROP),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(
                brightness=(1 - BRIGHTNESS, 1 + BRIGHTNESS),
                contrast=(1 - CONTRAST, 1 + CONTRAST),
                saturation=(1 - SATURATION, 1 + SATURATION),
                hue=(-HUE, HUE),
                p=1,
            ),
        ]
    )
    return lambda image, mask, number: chain(image=image, mask=mask)


def make_torchvision() -> View:
    chain = v2.Compose(
        [
            v2.RandomAffine(
                DEGREES,
                scale=SCALE,
                interpolation=InterpolationMode.BILINEAR,
                fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE_LABEL},
            ),
            v2.RandomCrop(CROP),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(BRIGHTNESS, CONTRAST, SATURATION, HUE),
        ]
    )

    def view(image: np.ndarray, mask: np.ndarray, number: int) -> object:
        tensor = torch.from_numpy(image).permute(2, 0, 1)  # C H W
        return chain(tv_tensors.Image(tensor), tv_tensors.Mask(torch.from_numpy(mask)))

    return view


LIBRARIES = {"segwright": make_segwright, "albumentations": make_albumentations, "torchvision": make_torchvision}


def make_sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture with structure at several sizes, and a mask of eleven classes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (18, 24, 3), dtype=np.uint8)
    image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(rng.integers(0, 11, (9, 12), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    return image, mask


def time_views(
    make: Callable[[], View], samples: list[tuple[np.ndarray, np.ndarray]], views: int, threads: int
) -> float:
    """Views per second of some threads, each with a chain of its own."""
    chains = [make() for _ in range(threads)]
    # After the chains are made: libraries set these when they are imported.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    def work(thread: int, first: int, last: int) -> None:
        for number in range(first + thread, last, threads):
            chains[thread](*samples[number % len(samples)], number)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda thread: work(thread, 0, 4 * threads), range(threads)))  # warm-up
        started = time.perf_counter()
        list(pool.map(lambda thread: work(thread, 0, views), range(threads)))
        return views / (time.perf_counter() - started)


def main() -> None:
    """Take turns, print the medians, append rows to the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--views", type=int, default=64, help="views a turn")
    arguments = parser.parse_args()
    samples = [make_sample(seed) for seed in range(8)]
    rates: dict[tuple[str, int], list[float]] = {(name, threads): [] for threads in (1, 2) for name in LIBRARIES}
    for turn in range(arguments.turns):
        for (name, threads), found in rates.items():
            found.append(time_views(LIBRARIES[name], samples, arguments.views, threads))
        shown = ", ".join(f"{name} x{threads} {found[-1]:.0f}" for (name, threads), found in rates.items())
        print(f"turn {turn + 1}: {shown} images/s", flush=True)
    append_rows(rates, f"python benchmarks/transforms.py --turns {arguments.turns} --views {arguments.views}")


def append_rows(rates: dict[tuple[str, int], list[float]], command: str) -> None:
    for (name, threads), found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["segwright", threads], found, strict=True)]
        row = machine() | {
            "library": name,
            "version": version(name),
            "opencv": cv2.__version__,
            "threads": threads,
            "size": "x".join(map(str, SIZE)),
            "crop": "x".join(map(str, CROP)),
            "turns": len(found),
            "images_per_s": round(statistics.median(found), 1),
            "segwright_times_as_fast": round(statistics.median(ratios), 2),
            "command": command,
        }
        write_row(RESULTS, row)
        print(f"{name}, {threads} threads: {row['images_per_s']} images/s")


if __name__ == "__main__":
    main()
