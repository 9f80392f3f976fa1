"""The fully connected conditional random field, which draws the borders of a prediction to the edges of its image.

Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, NeurIPS 2011
(https://arxiv.org/abs/1210.5644).
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from jaxtyping import Float32, Shaped

from segwright.inference.lattice import PermutohedralLattice

Kernel = Callable[[Float32[np.ndarray, "N K"]], Float32[np.ndarray, "N K"]]
"""Σ_j k_ij v_j for all pixels i at once; pixels are in reading order."""

_MIN_PROBABILITY = 1e-5  # as in the authors' code
_MAX_EXPONENT = 80  # a float32 holds e⁸⁸
_PIXELS_TOGETHER = 8192  # for 20 classes they stay in the cache of a core


@dataclass(frozen=True)
class DenseCRF:
    """Each pixel draws all others to its class, the more so the nearer they are and the more alike in color.

    A labeling x has the energy E(x) = Σ_i ψ_i(x_i) + Σ_{i<j} [x_i ≠ x_j] k_ij, where ψ_i(l) is −log of the probability
    that the network gives to class l, at least 1e-5, and

        k_ij = w₁ exp(−|p_i − p_j|² / 2θ_α² − |I_i − I_j|² / 2θ_β²) + w₂ exp(−|p_i − p_j|² / 2θ_γ²)

    of the positions p and the colors I of two pixels. The first, bilateral kernel draws borders to edges, the second
    smooths. What comes out is the mean field Q, which starts from k = 0 and is updated some times by

        Q_i(l) ∝ exp(−ψ_i(l) + Σ_j k_ij Q_j(l)).

    As in the authors' code j = i counts too, each kernel is divided by √(Σ_n k_in Σ_n k_jn) before its weight is
    applied, and the bilateral sum is that of a permutohedral lattice. The sum that smooths is exact here, but for what
    is beyond 4 θ_γ; theirs is that of another lattice.

    The defaults are those of DeepLab v2 with ResNet-101 on PASCAL VOC. DeepLab v1 has θ_α = 49, θ_β = 5 and θ_γ = 3,
    the authors' example w₁ = 10, θ_α = 80, θ_β = 13, θ_γ = 3 and 5 iterations. What is best depends on the network and
    the images; search for it on images that the network has not seen and that are not tested on.

    Attributes:
        bilateral_weight: w₁; 0 leaves this kernel out.
        bilateral_sigma_px: θ_α in pixels.
        color_sigma: θ_β, where colors are 0 to 255.
        smoothness_weight: w₂; 0 leaves this kernel out.
        smoothness_sigma_px: θ_γ in pixels.
        iterations: How often Q is updated; 5 to 10 are usual.

    Raises:
        ValueError: If a weight is below 0, a sigma not above 0, or `iterations` below 1.

    Source: Krähenbühl and Koltun, eq. 3 and algorithm 1; Chen et al., DeepLab, PAMI 2018
        (https://arxiv.org/abs/1606.00915), for the defaults.
    """

    bilateral_weight: float = 4.0
    bilateral_sigma_px: float = 67.0
    color_sigma: float = 3.0
    smoothness_weight: float = 3.0
    smoothness_sigma_px: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name in ("bilateral_weight", "smoothness_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but 0 or more is needed; 0 leaves the kernel out")
        for name in ("bilateral_sigma_px", "color_sigma", "smoothness_sigma_px"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but it is a width above 0; a weight of 0 leaves a kernel out"
                )
        if self.iterations < 1:
            raise ValueError(f"iterations is {self.iterations}, but 1 or more are needed; 5 to 10 are usual")

    def describe(self) -> str:
        """The settings in words that follow "predicted with"."""
        kernels = [
            f"weight {self.bilateral_weight:g} over {self.bilateral_sigma_px:g} pixels and {self.color_sigma:g} of 255 "
            "color values",
            f"weight {self.smoothness_weight:g} over {self.smoothness_sigma_px:g} pixels",
        ]
        weights = (self.bilateral_weight, self.smoothness_weight)
        words = " and ".join(kernel for kernel, weight in zip(kernels, weights, strict=True) if weight)
        iterations = f"{self.iterations} iteration{'s' if self.iterations > 1 else ''}"
        return f"a dense CRF of {iterations} ({words or 'without kernels'})"

    def refine(
        self, image: Shaped[np.ndarray, "H W C"], probabilities: Float32[np.ndarray, "K h w"]
    ) -> Float32[np.ndarray, "K H W"]:
        """The mean field, whose argmax is the refined mask.

        Time and memory are linear in pixels and classes: at most about 400 bytes a pixel of an RGB image and 25 bytes a
        pixel and class. The classes are shared out among the cores.

        Args:
            image: What the network saw, as the file has it, with any number of channels. uint8 is taken as it is. All
                other types are stretched to 0 to 255 between the 0.1th and the 99.9th percentile, over all channels
                together if there are three or four, so that colors stay true, and a channel at a time otherwise.
            probabilities: Of each class, summing to 1 over K; not logits.

        Raises:
            ValueError: If the sizes differ, the image holds values that are not finite, or the probabilities of a
                pixel do not sum to 1.
        """
        _refuse_what_does_not_fit(image, probabilities)
        kernels = self._kernels(_stretch(image))
        log_p = np.log(np.maximum(probabilities, _MIN_PROBABILITY)).reshape(len(probabilities), -1)  # K N
        unary = [cv2.transpose(log_p[classes]) for classes in _share_out(len(probabilities))]  # N k, of k classes each
        field = [part.copy() for part in unary]
        with ThreadPoolExecutor(_num_cores()) as pool:
            _normalize(field, pool)
            for _ in range(self.iterations):
                field = list(pool.map(partial(_pass_messages, kernels), unary, field))
                _normalize(field, pool)
        return np.concatenate([cv2.transpose(part) for part in field]).reshape(probabilities.shape)

    def _kernels(self, image: Shaped[np.ndarray, "H W C"]) -> list[Kernel]:
        """The normalized kernels with their weights."""
        height, width, channels = image.shape
        kernels: list[Kernel] = []
        if self.bilateral_weight:
            features = np.empty((height, width, 2 + channels), np.float32)
            features[..., 0] = np.arange(width) / self.bilateral_sigma_px
            features[..., 1] = np.arange(height)[:, None] / self.bilateral_sigma_px
            np.divide(image, np.float32(self.color_sigma), out=features[..., 2:])
            lattice = PermutohedralLattice(features.reshape(-1, 2 + channels))
            sums = lattice.filter(np.ones((height * width, 1), np.float32))[:, 0]
            kernels.append(lattice.weighted(np.sqrt(self.bilateral_weight / sums)).filter)
        if self.smoothness_weight:
            kernels.append(_Smoothness((height, width), self.smoothness_sigma_px, self.smoothness_weight).filter)
        return kernels


class _Smoothness:
    """The normalized Gaussian of the distance between two pixels, times a weight."""

    def __init__(self, size: tuple[int, int], sigma_px: float, weight: float) -> None:
        reach = min(math.ceil(4 * sigma_px), max(size) - 1)
        self._size = size
        self._gaussian = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2).astype(np.float32)
        self._scale = np.sqrt(weight / self._sum(np.ones((*size, 1), np.float32)))  # H W 1

    def filter(self, values: Float32[np.ndarray, "N K"]) -> Float32[np.ndarray, "N K"]:
        sums = self._sum(values.reshape(*self._size, -1) * self._scale)  # H W K
        sums *= self._scale
        return sums.reshape(values.shape)

    def _sum(self, values: Float32[np.ndarray, "H W K"]) -> Float32[np.ndarray, "H W K"]:
        sums = cv2.sepFilter2D(values, -1, self._gaussian, self._gaussian, borderType=cv2.BORDER_CONSTANT)
        return sums.reshape(values.shape)  # cv2 drops a single channel


def _share_out(num_classes: int) -> list[slice]:
    """The classes that a thread works on at once."""
    # Fewer than 8 take nearly as long as 8, and OpenCV filters at most 128.
    together = min(max(math.ceil(num_classes / _num_cores()), 8), 64)
    return [slice(first, first + together) for first in range(0, num_classes, together)]


def _pass_messages(
    kernels: list[Kernel], unary: Float32[np.ndarray, "N k"], field: Float32[np.ndarray, "N k"]
) -> Float32[np.ndarray, "N k"]:
    """−ψ_i(l) + Σ_j k_ij Q_j(l) for some of the classes."""
    received = unary.copy()
    for kernel in kernels:
        received += kernel(field)
    return received


def _normalize(logits: list[Float32[np.ndarray, "N _"]], pool: ThreadPoolExecutor) -> None:
    """The softmax of each pixel, over the classes of all arrays, in place."""

    def normalize(pixels: slice) -> None:
        parts = [part[pixels] for part in logits]
        # −ψ is a lower bound, as messages are positive. Sums that get too large are rare, and maxima take long.
        if max(part.max() for part in parts) > _MAX_EXPONENT:
            peaks = np.max([part.max(axis=1) for part in parts], axis=0)
            for part in parts:
                np.subtract(part, peaks[:, None], out=part)
        sums = sum(np.einsum("nk->n", np.exp(part, out=part)) for part in parts)
        for part in parts:
            np.divide(part, sums[:, None], out=part)

    list(pool.map(normalize, (slice(i, i + _PIXELS_TOGETHER) for i in range(0, len(logits[0]), _PIXELS_TOGETHER))))


def _stretch(image: Shaped[np.ndarray, "H W C"]) -> Shaped[np.ndarray, "H W C"]:
    """Values from 0 to 255, see `DenseCRF.refine`."""
    if image.dtype == np.uint8:
        return image
    axes = (0, 1, 2) if image.shape[2] in (3, 4) else (0, 1)
    values = image.astype(np.float32)
    low, high = np.percentile(values, (0.1, 99.9), axis=axes, keepdims=True)
    # Few bright pixels on a black ground lie beyond both percentiles.
    is_flat = low == high
    low = np.where(is_flat, values.min(axis=axes, keepdims=True), low)
    high = np.where(is_flat, values.max(axis=axes, keepdims=True), high)
    stretched = (values - low) * (255 / np.where(low < high, high - low, 1))
    return np.asarray(stretched.clip(0, 255), np.float32)


def _refuse_what_does_not_fit(image: Shaped[np.ndarray, "H W C"], probabilities: Float32[np.ndarray, "K h w"]) -> None:
    if image.shape[:2] != probabilities.shape[1:]:
        sizes = [" x ".join(map(str, size)) for size in (image.shape[:2], probabilities.shape[1:])]
        raise ValueError(
            f"the image is {sizes[0]}, but the probabilities are {sizes[1]}; resize the probabilities to the image"
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(
            "the image holds values that are not finite, but colors are compared; replace them by a number"
        )
    sums = probabilities.sum(axis=0)
    # Not so either if one is NaN. Half precision leaves sums that are up to a hundredth off.
    if not (np.abs(sums - 1) < 0.02).all() or probabilities.min() < 0:
        raise ValueError(
            f"the probabilities of a pixel sum to {sums.min():.3g} to {sums.max():.3g} and are at least "
            f"{probabilities.min():.3g}, but 0 or more that sum to 1 are needed; take the softmax of logits first"
        )


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
