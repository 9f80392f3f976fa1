"""Batches for training: a stream without end that can start anywhere, drawn by threads ahead of the loop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from segwright.data.folder import Dataset, Pair
from segwright.data.sampling import Order
from segwright.layers.hardware import free_memory
from segwright.types import Sample


class Transform(Protocol):
    """Random change of a sample, to a crop of one size."""

    def __call__(self, sample: Sample, rng: np.random.Generator, partner: Callable[[], Sample], /) -> Sample:
        """A view that depends on the arguments alone.

        Args:
            sample: An image with its mask, both not to be changed.
            rng: Source of all that is random.
            partner: Reads another sample of the epoch, for transforms that mix two; nothing is read until it is called.
        """


class Batches:
    """Random views of the images of a data set, as batches.

    Each epoch is a new order of all images, some of them several times if `order` says so, and epochs follow each
    other without a short batch between. What sample number n of the stream is depends on the seed and n alone: a
    resumed run sees what it would have seen, and N processes see together what one would.

    Args:
        dataset: Reads the pairs.
        pairs: The images to draw from, at least one.
        transform: Random change of a sample, to crops of one size.
        order: How often and in which order the images come; each once an epoch by default.
        batch_size: Images a batch over all processes.
        start: Batch number that the stream starts at.
        seed: Seed of the order, if none is given, and of the changes.
        rank: Number of this process.
        world_size: Number of processes; must divide the batch size.
        threads: Threads that read and change images.
        cache_bytes: Decoded images to keep in memory at most.

    Raises:
        ValueError: If the processes cannot share the batch, or the order is one of another number of images.
    """

    def __init__(
        self,
        dataset: Dataset,
        pairs: Sequence[Pair],
        transform: Transform,
        *,
        batch_size: int,
        order: Order | None = None,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        cache_bytes: int | None = None,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"train.batch_size is {batch_size}, which {world_size} devices cannot share; give a multiple of "
                f"{world_size}"
            )
        self._order = Order([1.0] * len(pairs), seed) if order is None else order
        if self._order.num_images != len(pairs):
            raise ValueError(
                f"the order is one of {self._order.num_images} images, but {len(pairs)} came; make it from these"
            )
        self._dataset, self._pairs, self._transform = dataset, pairs, transform
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._next = start
        self._threads = threads
        self._cache: dict[int, Sample] = {}
        self._cache_left = free_memory(torch.device("cpu")) // (4 * world_size) if cache_bytes is None else cache_bytes
        self._lock = threading.Lock()
        self._epoch: tuple[int, list[int]] = (-1, [])
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[tuple[Shaped[Tensor, "B C H W"], Int[Tensor, "B H W"]]]:
        # More threads inside OpenCV would only fight with ours and with the training step.
        cv2.setNumThreads(1)
        share = self._batch_size // self._world_size
        with ThreadPoolExecutor(self._threads, thread_name_prefix="batches") as pool:
            ahead: deque[list[Future[Sample]]] = deque()
            try:
                while True:
                    while len(ahead) < 3:
                        first = self._next * self._batch_size + self._rank * share
                        ahead.append([pool.submit(self._draw, *self._place(first + i)) for i in range(share)])
                        self._next += 1
                    started = time.monotonic()
                    samples = [future.result() for future in ahead.popleft()]
                    batch = _collate(samples)
                    self.waited_s += time.monotonic() - started
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _place(self, number: int) -> tuple[int, int, list[int]]:
        """Number of a sample in the stream -> that number, its position in the epoch, and the epoch's images."""
        epoch, position = self._order.place(number)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order.images(epoch).tolist())
        return number, position, self._epoch[1]

    def _draw(self, number: int, position: int, images: list[int]) -> Sample:
        rng = np.random.default_rng((self._seed, 1, number))
        # The partner comes from the epoch's list, so that images that come more often are more often partners.
        return self._transform(
            self._read(images[position]), rng, lambda: self._read(images[int(rng.integers(len(images)))])
        )

    def _read(self, index: int) -> Sample:
        if index in self._cache:
            return self._cache[index]
        sample = self._dataset.read(self._pairs[index])
        size = sample.image.nbytes + (sample.mask.nbytes if sample.mask is not None else 0)
        with self._lock:
            if index not in self._cache and size <= self._cache_left:
                self._cache_left -= size
                self._cache[index] = sample
        return sample


def _collate(samples: list[Sample]) -> tuple[Shaped[Tensor, "B C H W"], Int[Tensor, "B H W"]]:
    images = np.stack([sample.image for sample in samples])
    if images.dtype == np.uint16:
        images = images.astype(np.float32)  # torch computes with uint8 and float32, hardly with uint16
    masks = np.stack([sample.mask for sample in samples if sample.mask is not None])
    # (B, H, W, C) in memory seen as (B, C, H, W) is channels-last.
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks).long()
