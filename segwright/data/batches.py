"""Batches for training: a stream without end that can start anywhere, drawn by threads ahead of the loop."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from segwright.data.folder import Dataset, Pair
from segwright.layers.hardware import free_memory
from segwright.types import Sample


class Batches:
    """Random views of the images of a data set, as batches.

    Each epoch is a new order of all images, and epochs follow each other without a short batch between. What sample
    number n of the stream is depends on the seed and n alone: a resumed run sees what it would have seen, and N
    processes see together what one would.

    Args:
        dataset: Reads the pairs.
        pairs: The images to draw from, at least one.
        transform: Random change of a sample, to crops of one size.
        batch_size: Images a batch over all processes.
        start: Batch number that the stream starts at.
        seed: Seed of the order and of the changes.
        rank: Number of this process.
        world_size: Number of processes; must divide the batch size.
        threads: Threads that read and change images.
        cache_bytes: Decoded images to keep in memory at most.
    """

    def __init__(
        self,
        dataset: Dataset,
        pairs: Sequence[Pair],
        transform: Callable[[Sample, np.random.Generator], Sample],
        *,
        batch_size: int,
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
        self._dataset, self._pairs, self._transform = dataset, pairs, transform
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._next = start
        self._threads = threads
        self._cache: dict[int, Sample] = {}
        self._cache_left = free_memory(torch.device("cpu")) // (4 * world_size) if cache_bytes is None else cache_bytes
        self._lock = threading.Lock()
        self._order: tuple[int, list[int]] = (-1, [])
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

    def _place(self, number: int) -> tuple[int, int]:
        """Number of a sample in the stream -> that number and the index of its image."""
        epoch, position = divmod(number, len(self._pairs))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._pairs)).tolist())
        return number, self._order[1][position]

    def _draw(self, number: int, index: int) -> Sample:
        return self._transform(self._read(index), np.random.default_rng((self._seed, 1, number)))

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
