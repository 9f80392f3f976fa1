"""Tests of the stream of training batches."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from segwright.data.batches import Batches
from segwright.data.inspection import inspect
from segwright.types import Sample


def label_by_name(sample: Sample, rng: np.random.Generator) -> Sample:
    """Keeps the sample; writes its number and one random value into the first pixels of the image."""
    image = sample.image.copy()
    image[0, 0] = int(sample.name)
    image[0, 1] = rng.integers(0, 255)
    return Sample(sample.name, image, sample.mask)


def stream(root: Path, num: int, **options: int) -> list[tuple[list[int], list[int]]]:
    """Image numbers and random values of the first batches."""
    dataset = inspect(root).dataset
    batches = Batches(dataset, dataset.splits["train"], label_by_name, **{"batch_size": 4, **options})  # type: ignore[arg-type]
    found = []
    for image, _ in itertools.islice(iter(batches), num):
        found.append((image[:, 0, 0, 0].tolist(), image[:, 0, 0, 1].tolist()))
    return found


def test_every_epoch_shows_every_image_once(rectangles: Path) -> None:
    numbers = [number for batch, _ in stream(rectangles, 6) for number in batch]
    for epoch in range(4):
        assert sorted(numbers[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert numbers[:6] != numbers[6:12]


def test_a_stream_that_starts_later_goes_on_as_it_would_have(rectangles: Path) -> None:
    assert stream(rectangles, 3, start=4) == stream(rectangles, 7)[4:]


def test_processes_share_what_one_would_see(rectangles: Path) -> None:
    whole = stream(rectangles, 4)
    shares = [stream(rectangles, 4, rank=rank, world_size=2) for rank in (0, 1)]
    joined = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(*shares, strict=True)]
    assert joined == whole


def test_seeds_give_other_orders(rectangles: Path) -> None:
    assert stream(rectangles, 3, seed=1) != stream(rectangles, 3, seed=2)


def test_images_come_raw_and_channels_last(rectangles: Path) -> None:
    dataset = inspect(rectangles).dataset
    batches = Batches(dataset, dataset.splits["train"], label_by_name, batch_size=2)
    image, mask = next(iter(batches))
    assert image.dtype == torch.uint8
    assert image.shape == (2, 3, 64, 64)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert mask.dtype == torch.int64


def test_without_memory_for_a_cache_the_stream_is_the_same(rectangles: Path) -> None:
    assert stream(rectangles, 4, cache_bytes=0) == stream(rectangles, 4)


def test_a_batch_that_devices_cannot_share_is_refused(rectangles: Path) -> None:
    dataset = inspect(rectangles).dataset
    with pytest.raises(ValueError, match="multiple of 3"):
        Batches(dataset, dataset.splits["train"], label_by_name, batch_size=4, world_size=3)


def test_an_error_in_a_thread_reaches_the_loop(rectangles: Path) -> None:
    dataset = inspect(rectangles).dataset
    batches = Batches(dataset, dataset.splits["train"], label_by_name, batch_size=2)
    for path in (rectangles / "images" / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="png"):
        next(iter(batches))
