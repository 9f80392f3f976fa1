"""The order of the images in training: each as often as the others, or those that show rare classes more often."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int64

Sampling = Literal["uniform", "balanced"]
"""How often an image comes in an epoch: "uniform" for once, "balanced" for `repeat_factors` times on average."""

RARE_BELOW = 0.5
"""A class that fewer than this share of the images show is rare. LVIS has 0.001 for 1,203 classes in 100,000 images;
with few classes and few images, one that most images lack is worth showing more often."""

_WHOLE = 2**16  # parts of one image; whole numbers keep the length of an epoch exact


class Order:
    """Which image each sample of an endless stream shows, as a function of the seed and the sample's number alone.

    The stream is a row of epochs, all of one length. In each epoch image i comes r_i times, rounded up or down at
    random and never to nothing, in a new random order. The r_i are first stretched by a common factor until their sum
    is a whole number: that keeps the epochs equally long, so that a stream can start anywhere without a look at what
    came before.

    Args:
        repeats: r_i, how often each image comes in an epoch on average, 1 or more.
        seed: Seed of the orders.

    Raises:
        ValueError: If there is no image, or one that would come less than once.

    Source: repeats rounded at random in each epoch, Gupta et al., LVIS, CVPR 2019 (https://arxiv.org/abs/1908.03195);
    here by systematic sampling (one random offset, equal steps along the r_i in random order), which gives each image
    its r_i on average as independent rounding does, but always the same sum.
    """

    def __init__(self, repeats: Sequence[float], seed: int = 0) -> None:
        if not len(repeats) or not min(repeats) >= 1:
            smallest = f"the smallest repeat {min(repeats)}" if len(repeats) else "no image"
            raise ValueError(f"an order came with {smallest}, but needs images that come at least once an epoch")
        self._parts = np.rint(np.array(repeats, np.float64) * _WHOLE).astype(np.int64)
        self._total = int(self._parts.sum())
        self._length = -(-self._total // _WHOLE)
        self._seed = seed

    def __len__(self) -> int:
        """Number of samples in an epoch."""
        return self._length

    @property
    def num_images(self) -> int:
        """Number of images to choose from."""
        return len(self._parts)

    def place(self, number: int) -> tuple[int, int]:
        """Epoch of a sample of the stream, and its position in `images` of that epoch."""
        return divmod(number, self._length)

    def images(self, epoch: int) -> Int64[np.ndarray, " L"]:
        """Index of the image of each sample of an epoch."""
        rng = np.random.default_rng((self._seed, 0, epoch))
        images = rng.permutation(self.num_images)
        if self._length == self.num_images:  # nothing comes twice
            return images
        ends = np.cumsum(self._parts[images])
        steps = (np.arange(self._length) * self._total + rng.integers(self._total)) // self._length
        drawn = images[np.searchsorted(ends, steps, side="right")]
        # The copies of an image lie side by side now.
        return rng.permutation(drawn)


def make_order(
    sampling: Sampling, shown: Sequence[Collection[int]], *, seed: int = 0, rare_below: float = RARE_BELOW
) -> Order:
    """The order that a recipe asks for.

    Args:
        sampling: How often an image comes.
        shown: The classes that each image shows.
        seed: Seed of the order.
        rare_below: Classes that fewer than this share of the images show are rare, above 0 and at most 1.

    Raises:
        ValueError: If `rare_below` is out of its range, or there is no image.
    """
    return Order([1.0] * len(shown) if sampling == "uniform" else repeat_factors(shown, rare_below), seed)


def repeat_factors(shown: Sequence[Collection[int]], rare_below: float = RARE_BELOW) -> list[float]:
    """How often each image comes in an epoch: the largest sqrt(t / f_c) of the classes c that it shows, 1 at least.

    Args:
        shown: The classes that each image shows; their shares of the images are f_c.
        rare_below: The threshold t, above 0 and at most 1.

    Raises:
        ValueError: If `rare_below` is out of its range.

    Source: Gupta et al., LVIS, CVPR 2019 (https://arxiv.org/abs/1908.03195).
    """
    if not 0 < rare_below <= 1:
        raise ValueError(
            f"train.rare_below is {rare_below}, but a share of the images above 0 and at most 1 is needed; try "
            f"{RARE_BELOW}"
        )
    counts = Counter(label for classes in shown for label in set(classes))
    factors = {label: max(1.0, math.sqrt(rare_below * len(shown) / count)) for label, count in counts.items()}
    return [max((factors[label] for label in classes), default=1.0) for classes in shown]
