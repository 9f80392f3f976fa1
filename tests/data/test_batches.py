"""Tests of the stream of training batches."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from samples import write_pair

from segwright.data.batches import Batches, Transform
from segwright.data.folder import Dataset, Pair
from segwright.data.inspection import inspect
from segwright.data.sampling import Order, make_order
from segwright.transforms.image import ImageTransform
from segwright.types import Sample


def label_by_name(sample: Sample, rng: np.random.Generator, partner: Callable[[], Sample]) -> Sample:
    """Keeps the sample; writes its number and one random value into the first pixels of the image."""
    image = sample.image.copy()
    image[0, 0] = int(sample.name)
    image[0, 1] = rng.integers(0, 255)
    return Sample(sample.name, image, sample.mask)


def label_by_partner(sample: Sample, rng: np.random.Generator, partner: Callable[[], Sample]) -> Sample:
    """The same with the number of the partner, asked first, in place of the random value."""
    image = sample.image.copy()
    image[0, 0] = int(sample.name)
    image[0, 1] = int(partner().name)
    return Sample(sample.name, image, sample.mask)


def stream(
    root: Path | Dataset, num: int, transform: Transform = label_by_name, **options: int | Order
) -> list[tuple[list[int], list[int]]]:
    """Image numbers and random values, or partners, of the first batches."""
    dataset = inspect(root).dataset if isinstance(root, Path) else root
    batches = Batches(dataset, dataset.splits["train"], transform, **{"batch_size": 4, **options})  # type: ignore[arg-type]
    found = []
    for image, _ in itertools.islice(iter(batches), num):
        found.append((image[:, 0, 0, 0].tolist(), image[:, 0, 0, 1].tolist()))
    return found


def test_every_epoch_shows_every_image_once(rectangles: Path) -> None:
    numbers = [number for batch, _ in stream(rectangles, 6) for number in batch]
    for epoch in range(4):
        assert sorted(numbers[6 * epoch : 6 * epoch + 6]) == list(range(6))
    assert numbers[:6] != numbers[6:12]


def test_the_order_is_that_of_a_permutation_an_epoch(rectangles: Path) -> None:
    numbers = [number for batch, _ in stream(rectangles, 3, seed=5) for number in batch]
    epochs = [np.random.default_rng((5, 0, epoch)).permutation(6).tolist() for epoch in range(2)]
    assert numbers == epochs[0] + epochs[1]


def test_the_random_changes_follow_from_the_seed_and_the_number_of_the_sample(rectangles: Path) -> None:
    values = [value for _, batch in stream(rectangles, 4, seed=5) for value in batch]
    assert values == [np.random.default_rng((5, 1, number)).integers(0, 255) for number in range(16)]


UNEVEN = Order([1.0, 1.0, 2.5, 1.0, 3.2, 1.0], seed=1)
STREAMS = pytest.mark.parametrize(
    ("transform", "options"),
    [
        (label_by_name, {}),
        (label_by_partner, {}),
        (label_by_name, {"order": UNEVEN}),
        (label_by_partner, {"order": UNEVEN}),
    ],
)


@STREAMS
def test_a_stream_that_starts_later_goes_on_as_it_would_have(
    rectangles: Path, transform: Transform, options: dict[str, Order]
) -> None:
    assert stream(rectangles, 3, transform, start=4, **options) == stream(rectangles, 7, transform, **options)[4:]


@STREAMS
def test_processes_share_what_one_would_see(rectangles: Path, transform: Transform, options: dict[str, Order]) -> None:
    whole = stream(rectangles, 4, transform, **options)
    shares = [stream(rectangles, 4, transform, rank=rank, world_size=2, **options) for rank in (0, 1)]
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


@STREAMS
def test_neither_threads_nor_a_lack_of_memory_change_the_stream(
    rectangles: Path, transform: Transform, options: dict[str, Order]
) -> None:
    dataset = inspect(rectangles).dataset
    expected = stream(dataset, 4, transform, **options)
    for change in ({"cache_bytes": 0}, {"threads": 1}, {"threads": 4}):
        assert stream(dataset, 4, transform, **options, **change) == expected  # type: ignore[arg-type]


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


def test_a_stream_far_along_starts_at_once(rectangles: Path) -> None:
    numbers, _ = stream(rectangles, 1, start=10**12, order=UNEVEN)[0]
    epoch, position = UNEVEN.place(4 * 10**12)
    expected = [*UNEVEN.images(epoch)[position:], *UNEVEN.images(epoch + 1)]
    assert numbers == expected[:4]


def test_an_order_of_another_number_of_images_is_refused(rectangles: Path) -> None:
    dataset = inspect(rectangles).dataset
    with pytest.raises(ValueError, match="order is one of 2 images, but 6 came"):
        Batches(dataset, dataset.splits["train"], label_by_name, batch_size=4, order=Order([1.0, 1.0]))


def test_partners_are_drawn_as_often_as_the_order_shows_them(rectangles: Path) -> None:
    order = Order([1.0, 1.0, 1.0, 1.0, 1.0, 5.0])
    partners = [number for _, batch in stream(rectangles, 60, label_by_partner, order=order) for number in batch]
    assert set(partners) == set(range(6))
    assert np.mean(np.array(partners) == 5) == pytest.approx(0.5, abs=0.15)


def test_a_partner_that_nobody_asks_for_is_not_read(rectangles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = Dataset.read, []

    def count(self: Dataset, pair: Pair) -> Sample:
        names.append(pair.name)
        return read(self, pair)

    monkeypatch.setattr(Dataset, "read", count)
    dataset = inspect(rectangles).dataset
    batches = iter(Batches(dataset, dataset.splits["train"], label_by_name, batch_size=2, threads=1, cache_bytes=0))
    expected = [f"{number:02d}" for number in np.random.default_rng((0, 0, 0)).permutation(6)]
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert names == expected[: len(names)]


def test_images_of_a_rare_class_come_more_often(tmp_path: Path) -> None:
    for number in range(10):
        write_pair(tmp_path, "train", f"{number:02d}", number)
    write_pair(tmp_path, "val", "10", 10)
    for number in range(1, 10):  # only the first image keeps its rectangle
        cv2.imwrite(str(tmp_path / "masks" / "train" / f"{number:02d}.png"), np.zeros((64, 64), np.uint8))
    inspection = inspect(tmp_path)
    shown = [inspection.shown[pair] for pair in inspection.dataset.splits["train"]]
    share = {}
    for sampling in ("uniform", "balanced"):
        order = make_order(sampling, shown, rare_below=0.9)  # type: ignore[arg-type]
        share[sampling] = np.mean(
            [number == 0 for batch, _ in stream(inspection.dataset, 30, order=order) for number in batch]
        )
    assert share == {"uniform": pytest.approx(0.1), "balanced": pytest.approx(0.25)}


@pytest.mark.parametrize("mix", ["cutmix", "classmix", "copy_paste"])
def test_mixed_views_resume_and_are_shared_as_well(rectangles: Path, mix: str) -> None:
    dataset = inspect(rectangles).dataset
    transform = ImageTransform(crop=(32, 32), rare_crops=0.5, mix=mix, rotation_degrees=20, elastic_px=2.0)  # type: ignore[arg-type]

    def batches(num: int, **options: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        made = Batches(dataset, dataset.splits["train"], transform, batch_size=4, order=UNEVEN, **options)
        return list(itertools.islice(iter(made), num))

    whole = batches(4)
    resumed = batches(2, start=2)
    shares = [batches(4, rank=rank, world_size=2, threads=1) for rank in (0, 1)]
    joined = [[torch.cat(parts) for parts in zip(*pair, strict=True)] for pair in zip(*shares, strict=True)]
    for expected, got in [*zip(whole[2:], resumed, strict=True), *zip(whole, joined, strict=True)]:
        assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
