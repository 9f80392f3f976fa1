"""Tests of the permutohedral lattice, with exact sums and with the paper's own formulation in plain Python."""

from collections import defaultdict

import numpy as np
import pytest

from segwright.inference.lattice import PermutohedralLattice


def draw_points(number: int, dimensions: int, spread: float, seed: int = 0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).random((number, dimensions))).astype(np.float32)


def draw_values(number: int, columns: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((number, columns), np.float32)


def gaussians(features: np.ndarray) -> np.ndarray:
    """All k_ij."""
    return np.exp(-0.5 * ((features[:, None].astype(float) - features[None]) ** 2).sum(axis=2))


def normalize(matrix: np.ndarray) -> np.ndarray:
    sums = matrix.sum(axis=1)
    return matrix / np.sqrt(sums[:, None] * sums)


def as_matrix(features: np.ndarray) -> np.ndarray:
    return PermutohedralLattice(features).filter(np.eye(len(features), dtype=np.float32))


def filter_as_published(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Adams et al., section 3: points in the plane of D + 1 coordinates that sum to 0, corners in a dictionary."""
    dims = features.shape[1]
    # Columns of the elevation are orthogonal to each other and to (1, …, 1).
    elevation = np.zeros((dims + 1, dims))
    for column in range(dims):
        elevation[: column + 1, column] = 1
        elevation[column + 1, column] = -(column + 1)
    elevation /= np.linalg.norm(elevation, axis=0)
    elevated = features.astype(float) @ elevation.T * (dims + 1) * np.sqrt(2 / 3)

    touched: list[list[tuple[tuple[int, ...], float]]] = []
    for point in elevated:
        # The nearest point of remainder 0: round all coordinates, then move those that are most wrong.
        nearest = np.round(point / (dims + 1)).astype(int) * (dims + 1)
        order = np.argsort(-(point - nearest), kind="stable")
        excess = nearest.sum() // (dims + 1)
        if excess > 0:
            nearest[order[len(order) - excess :]] -= dims + 1
        elif excess < 0:
            nearest[order[:-excess]] += dims + 1
        assert nearest.sum() == 0
        differences = point - nearest
        order = np.argsort(-differences, kind="stable")
        falling = differences[order]
        corners = []
        for remainder in range(dims + 1):
            canonical = np.full(dims + 1, remainder)
            canonical[order[dims + 1 - remainder :]] -= dims + 1
            if remainder == 0:
                share = 1 - (falling[0] - falling[dims]) / (dims + 1)
            else:
                share = (falling[dims - remainder] - falling[dims + 1 - remainder]) / (dims + 1)
            corners.append((tuple((nearest + canonical).tolist()), share))
        assert np.allclose(sum(share * np.array(corner) for corner, share in corners), point)
        touched.append(corners)

    spread: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(values.shape[1]))
    for corners, value in zip(touched, values, strict=True):
        for corner, share in corners:
            spread[corner] = spread[corner] + share * value
    for axis in range(dims + 1):
        move = np.ones(dims + 1, int)
        move[axis] = -dims
        nothing = np.zeros(values.shape[1])
        spread = {
            corner: value
            + sum(spread.get(tuple((np.array(corner) + sign * move).tolist()), nothing) for sign in (-1, 1)) / 2
            for corner, value in spread.items()
        }
    return np.array([sum(share * spread[corner] for corner, share in corners) for corners in touched])


@pytest.mark.parametrize(("dimensions", "spread"), [(1, 3.0), (2, 3.0), (3, 2.0), (5, 2.0)])
def test_sums_are_those_of_the_published_lattice(dimensions: int, spread: float) -> None:
    features, values = draw_points(60, dimensions, spread), draw_values(60)
    found, expected = PermutohedralLattice(features).filter(values), filter_as_published(features, values)
    ratio = found / expected
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=2e-4)  # the scale is not published


def test_keys_that_need_more_than_64_bits_stay_apart() -> None:
    # 14 axes of about 100 corners each; pairs of points are near each other, the pairs far apart.
    features = np.repeat(draw_points(20, 14, 90.0), 2, axis=0)
    features[1::2] += 0.2
    features = features.astype(np.float32)
    values = draw_values(40)
    found, expected = PermutohedralLattice(features).filter(values), filter_as_published(features, values)
    ratio = found / expected
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-2)


@pytest.mark.parametrize(
    ("dimensions", "spread", "most"), [(1, 6.0, 0.03), (2, 5.0, 0.04), (3, 3.0, 0.06), (5, 2.0, 0.1)]
)
def test_normalized_sums_are_near_those_of_the_gaussian(dimensions: int, spread: float, most: float) -> None:
    features, values = draw_points(1000, dimensions, spread), draw_values(1000)
    values[:, 0] = features[:, 0] > spread / 2
    lattice = PermutohedralLattice(features)
    sums = lattice.filter(np.ones((1000, 1), np.float32))[:, 0]
    found = lattice.weighted(1 / np.sqrt(sums)).filter(values)
    expected = normalize(gaussians(features)) @ values
    assert np.abs(found - expected).max() < 2 * most
    assert np.abs(found - expected).mean() < most / 3


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_where_points_are_dense_sums_have_the_size_of_the_gaussian(dimensions: int) -> None:
    features = draw_points(1500, dimensions, 4.0)
    ones = np.ones((1500, 1), np.float32)
    ratio = PermutohedralLattice(features).filter(ones) / gaussians(features).sum(axis=1, keepdims=True)
    assert 0.95 < ratio.mean() < 1.01


def test_the_matrix_is_positive_and_symmetric_up_to_the_missing_corners() -> None:
    matrix = as_matrix(draw_points(200, 3, 2.0))
    assert matrix.min() >= 0
    assert (np.diag(matrix) > 0).all()
    assert np.abs(matrix - matrix.T).mean() < 0.03 * matrix.mean()


def test_far_points_do_not_reach_each_other() -> None:
    matrix = as_matrix(np.array([[0, 0], [0.1, 0], [30, 0], [0, -30]], np.float32))
    assert matrix[0, 1] > 0.3
    assert not matrix[2:, :2].any()
    assert matrix[2, 3] == 0


def test_weights_stand_on_both_sides() -> None:
    features, weights = draw_points(50, 4, 2.0), draw_values(50, 1)[:, 0]
    lattice = PermutohedralLattice(features)
    before = lattice.filter(np.eye(50, dtype=np.float32))
    weighted = lattice.weighted(weights).filter(np.eye(50, dtype=np.float32))
    np.testing.assert_allclose(weighted, weights[:, None] * before * weights, rtol=1e-5)
    np.testing.assert_array_equal(lattice.filter(np.eye(50, dtype=np.float32)), before)


def test_the_order_of_points_does_not_matter() -> None:
    features, values = draw_points(300, 5, 3.0), draw_values(300)
    order = np.random.default_rng(2).permutation(300)
    mixed = PermutohedralLattice(features[order]).filter(values[order])
    np.testing.assert_allclose(mixed, PermutohedralLattice(features).filter(values)[order], rtol=1e-5)


@pytest.mark.parametrize("number", [1, 2, 257])
def test_points_in_one_place_all_get_the_same_sum(number: int) -> None:
    features = np.tile(np.array([[-0.3, 1.2, 7.0]], np.float32), (number, 1))
    values = draw_values(number)
    summed = PermutohedralLattice(features).filter(values)
    one = as_matrix(features[:1])[0, 0]
    assert 0.3 < one < 1.2
    np.testing.assert_allclose(summed, np.tile(one * values.sum(axis=0), (number, 1)), rtol=1e-5)


def test_a_hundred_and_fifty_axes_stay_finite_and_positive() -> None:
    features = draw_points(30, 150, 1.0)
    sums = PermutohedralLattice(features).filter(np.ones((30, 1), np.float32))
    assert np.isfinite(sums).all()
    assert (sums > 0).all()
