"""Sums of Gaussians between many points in several dimensions: the permutohedral lattice.

Adams, Baek and Davis, Fast High-Dimensional Filtering Using the Permutohedral Lattice, Eurographics 2010
(https://doi.org/10.1111/j.1467-8659.2009.01645.x).

The paper describes the lattice A*_d in a plane of d + 1 dimensions. It is Zᵈ in other coordinates: a corner is d whole
numbers, its neighbors lie at ± the unit vectors e_1 … e_d and at ± (1, …, 1), and the simplex around a point y has the
corners ⌊y⌋ to ⌊y⌋ + (1, …, 1), one unit vector after the other, in the order of falling fractions y − ⌊y⌋.

In these coordinates the blur by [½, 1, ½] along the d + 1 directions has the covariance ½ (I + 11ᵀ). Splat and slice,
which share a point's value among the corners around it, add 1/12 (I + 11ᵀ) each on average. Hence y = L f with
LLᵀ = ⅔ (I + 11ᵀ) makes all three together a Gaussian of standard deviation 1 in the features f.
"""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self

import numpy as np
from jaxtyping import Float32, Int32, Int64
from scipy import sparse

_GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ divided by the golden ratio; multiples of it are spread evenly


class PermutohedralLattice:
    """The matrix of the Gaussians between all points, k_ij ≈ exp(−½ |f_i − f_j|²), without its N² entries.

    A point touches D + 1 corners of the lattice. Corners that no point touches do not exist, and what the blur would
    bring there is lost: where points are few all k_ij are too small, which matters little once they are divided by
    their sum.

    Memory is 8 (D + 1) bytes a point and about 20 (D + 1) bytes a corner, of which there are at most D + 1 times as
    many as points and mostly far fewer; while the lattice is built it is about 60 (D + 1) bytes a point.

    Args:
        features: Place of each point, in standard deviations of the Gaussian.
    """

    def __init__(self, features: Float32[np.ndarray, "N D"]) -> None:
        num_points, dimensions = features.shape
        keys, shares, steps = _surround(features)
        corners, numbers = _number(keys.ravel())
        # In cells of the lattice the Gaussian has the volume √((2π)ᵈ |LLᵀ|), but the blur 2ᵈ⁺¹; one half of the factor
        # goes to splat, the other to slice.
        shares *= math.sqrt((math.pi / 3) ** (dimensions / 2) * math.sqrt(dimensions + 1) / 2)
        starts = np.arange(0, numbers.size + 1, dimensions + 1, dtype=np.int32)
        touched = numbers.reshape(keys.shape).T  # N D+1
        self._slice = sparse.csr_array((shares.T.ravel(), touched.ravel(), starts), shape=(num_points, len(corners)))
        with ThreadPoolExecutor() as pool:
            self._blurs = list(pool.map(partial(_blur, corners), (-steps.sum(), *steps)))

    def weighted(self, weights: Float32[np.ndarray, "N"]) -> Self:
        """The matrix of w_i k_ij w_j."""
        other = copy.copy(self)
        shares = self._slice.data.reshape(len(weights), -1) * weights[:, None]
        other._slice = sparse.csr_array((shares.ravel(), self._slice.indices, self._slice.indptr), self._slice.shape)
        return other

    def filter(self, values: Float32[np.ndarray, "N K"]) -> Float32[np.ndarray, "N K"]:
        """Σ_j k_ij v_j for all points at once, the point itself among them."""
        spread = self._slice.T @ values  # corners K
        for blur in self._blurs:
            spread = blur @ spread
        summed: Float32[np.ndarray, "N K"] = self._slice @ spread
        return summed


def _surround(
    features: Float32[np.ndarray, "N D"],
) -> tuple[Int64[np.ndarray, "D+1 N"], Float32[np.ndarray, "D+1 N"], Int64[np.ndarray, "D"]]:
    """The corners of the simplex around each point.

    Returns:
        A key for each corner, the point's share in it (a barycentric coordinate), and what each unit vector adds to a
        key.
    """
    num_points, dimensions = features.shape
    scale = np.linalg.cholesky((np.eye(dimensions) + 1) * 2 / 3).astype(np.float32)
    fractions = scale @ features.T  # D N
    floors = np.floor(fractions)
    fractions -= floors
    floors -= floors.min(axis=1, keepdims=True) - 1
    steps = _choose_steps(floors.max(axis=1))

    keys = np.zeros((dimensions + 1, num_points), np.int64)
    shares = np.ones((dimensions + 1, num_points), np.float32)
    for floor, step in zip(floors, steps, strict=True):
        keys[0] += floor.astype(np.int64) * step
    for corner, (fraction, axis) in enumerate(zip(*_sort_falling(fractions), strict=True), start=1):
        keys[corner] = keys[corner - 1] + steps[axis]
        shares[corner - 1] -= fraction
        shares[corner] = fraction
    return keys, shares, steps


def _choose_steps(last: Float32[np.ndarray, "D"]) -> Int64[np.ndarray, "D"]:
    """What each axis counts in a key: a mixed radix, so that keys in rising order pass from neighbor to neighbor.

    Args:
        last: Largest ⌊y⌋ of each axis, the smallest being 1.
    """
    # Corners reach up to 1 further, and so do their neighbors on both sides: from 0 to last + 2.
    radices = [int(length) + 3 for length in last]
    if math.prod(radices) < 2**63:
        return np.array([math.prod(radices[axis + 1 :]) for axis in range(len(radices))], np.int64)
    # Sums of random multiples, modulo 2⁶⁴: two of a million corners share a key once in a million images.
    return np.random.default_rng(0).integers(-(2**63), 2**63, len(radices)) | 1


def _sort_falling(
    fractions: Float32[np.ndarray, "D N"],
) -> tuple[Float32[np.ndarray, "D N"], Int32[np.ndarray, "D N"]]:
    """The fractions of each point, largest first, and the axes they come from."""
    # A fraction carries its axis in the lowest bits, so that both are moved at once. Swapping neighbors in whole rows,
    # even and odd in turn, sorts after D turns, far sooner than N short sorts would.
    num_axes = len(fractions)
    bits = (num_axes - 1).bit_length()
    unit = 1 << (30 - bits)
    packed = (fractions * np.float32(unit)).astype(np.int32) << bits
    packed |= np.arange(num_axes, dtype=np.int32)[:, None]
    for turn in range(num_axes):
        for row in range(turn % 2, num_axes - 1, 2):
            larger = np.maximum(packed[row], packed[row + 1])
            np.minimum(packed[row], packed[row + 1], out=packed[row + 1])
            packed[row] = larger
    return (packed >> bits).astype(np.float32) / unit, packed & ((1 << bits) - 1)


def _number(keys: Int64[np.ndarray, "L"]) -> tuple[Int64[np.ndarray, "M"], Int32[np.ndarray, "L"]]:
    """The different keys in rising order, and which of them each key is; several times as fast as np.unique."""
    # Every key writes its place into a hash table, where the last one stays. Whoever finds an equal key there is
    # settled, the others try again with another hash.
    bits = len(keys).bit_length()
    table = np.empty(1 << bits, np.int32)
    keeper = np.empty(len(keys), np.int32)
    waiting, mine, factor = np.arange(len(keys), dtype=np.int32), keys, _GOLDEN
    while waiting.size:
        slots = (mine.view(np.uint64) * np.uint64(factor) >> np.uint64(64 - bits)).view(np.int64)
        table[slots] = waiting
        found = table[slots]
        keeper[waiting] = found
        lost = np.flatnonzero(keys[found] != mine)
        waiting, mine, factor = waiting[lost], mine[lost], factor * _GOLDEN % 2**64
    different = np.flatnonzero(keeper == np.arange(len(keys), dtype=np.int32))
    different = different[np.argsort(keys[different])]
    numbers = np.empty(len(keys), np.int32)
    numbers[different] = np.arange(len(different), dtype=np.int32)
    return keys[different], numbers[keeper]


def _blur(corners: Int64[np.ndarray, "M"], step: np.int64) -> sparse.csr_array:
    """The matrix that blurs by [½, 1, ½] along one direction, for keys in rising order."""
    number = len(corners)
    wanted = corners + step
    places = np.minimum(np.searchsorted(corners, wanted), number - 1)
    near = np.flatnonzero(corners[places] == wanted).astype(np.int32)
    next_ = places[near].astype(np.int32)
    own = np.arange(number, dtype=np.int32)
    weights = np.repeat(np.array([1, 1 / 2], np.float32), (number, 2 * len(near)))
    rows, columns = np.concatenate([own, near, next_]), np.concatenate([own, next_, near])
    return sparse.csr_array((weights, (rows, columns)), shape=(number, number))
