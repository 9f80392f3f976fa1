"""Tests of the clean-up of predicted masks, with flood fills in plain Python as the reference."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.inference.cleanup import CleanUp

Place = tuple[int, ...]


def draw(*rows: str) -> np.ndarray:
    """A mask from one digit a pixel."""
    return np.array([[int(digit) for digit in row] for row in rows], np.uint8)


def random_mask(
    seed: int, *, shape: tuple[int, ...] = (11, 13), num_classes: int = 4, side: int = 3, noise: float = 0.2
) -> np.ndarray:
    """Blocks of random classes with noise; class 0 is as frequent as all others together."""
    generator = np.random.default_rng(seed)
    chances = np.r_[1.0, np.full(num_classes - 1, 1 / max(num_classes - 1, 1))]
    blocks, pixels = (
        generator.choice(num_classes, size=size, p=chances / chances.sum())
        for size in ([-(-length // side) for length in shape], shape)
    )
    smooth = np.kron(blocks, np.ones((side,) * len(shape), int))[tuple(slice(length) for length in shape)]
    return np.where(generator.random(shape) < noise, pixels, smooth).astype(np.uint8)


masks = st.builds(
    random_mask,
    st.integers(0, 2**31),
    shape=st.sampled_from([(11, 13), (16, 9), (1, 20), (5, 6, 7), (3, 3, 4, 5)]),
    num_classes=st.integers(1, 5),
    side=st.integers(1, 5),
    noise=st.sampled_from([0.0, 0.1, 0.3]),
)
clean_ups = st.builds(CleanUp, st.integers(0, 30), st.booleans(), st.booleans())


def neighbors(place: Place, shape: tuple[int, ...], *, corners: bool) -> Iterator[Place]:
    for move in product((-1, 0, 1), repeat=len(place)):
        if any(move) and (corners or sum(map(abs, move)) == 1):
            found = tuple(at + by for at, by in zip(place, move, strict=True))
            if all(0 <= at < length for at, length in zip(found, shape, strict=True)):
                yield found


def flood(start: Place, shape: tuple[int, ...], is_free: Callable[[Place], bool], *, corners: bool) -> set[Place]:
    reached, waiting = {start}, [start]
    while waiting:
        for place in neighbors(waiting.pop(), shape, corners=corners):
            if place not in reached and is_free(place):
                reached.add(place)
                waiting.append(place)
    return reached


def components(mask: np.ndarray) -> list[tuple[int, set[Place]]]:
    """Class and pixels of each component, by its first pixel in reading order."""
    found: list[tuple[int, set[Place]]] = []
    done: set[Place] = set()
    for place in np.ndindex(mask.shape):
        if place not in done:
            index = int(mask[place])
            pixels = flood(place, mask.shape, lambda other, index=index: mask[other] == index, corners=True)
            found.append((index, pixels))
            done |= pixels
    return found


def fill_slowly(mask: np.ndarray) -> np.ndarray:
    """The mask with its holes filled: a flood from each region of class 0 for each class that it borders on."""
    shape, filled = mask.shape, mask.copy()
    done: set[Place] = set()
    for start in map(tuple, np.argwhere(mask == 0).tolist()):
        if start in done:
            continue
        gap = flood(start, shape, lambda other: mask[other] == 0, corners=False)
        done |= gap
        beside = {int(mask[other]) for pixel in gap for other in neighbors(pixel, shape, corners=False)} - {0}
        for index in sorted(beside, reverse=True):
            free = flood(start, shape, lambda other, index=index: mask[other] != index, corners=False)
            if not any(at in (0, length - 1) for pixel in free for at, length in zip(pixel, shape, strict=True)):
                filled[tuple(np.transpose(list(gap)))] = index
    return filled


def assert_replaced_by_nearest(mask: np.ndarray, cleaned: np.ndarray, removed: set[Place]) -> None:
    """All pixels keep their class but those that are removed, which have that of one of the nearest others."""
    stays = np.array([place for place in np.ndindex(mask.shape) if place not in removed])
    for place in np.ndindex(mask.shape):
        allowed = {int(mask[place])}
        if place in removed:
            distances = ((stays - place) ** 2).sum(axis=1)
            allowed = {int(mask[tuple(found)]) for found in stays[distances == distances.min()]}
        assert int(cleaned[place]) in allowed, f"{place} is {cleaned[place]}, but the nearest are {allowed}"


# Small components


def test_small_components_take_the_class_around_them() -> None:
    mask = draw("00000", "01100", "00000", "22222", "22122", "22222")
    expected = draw("00000", "00000", "00000", "22222", "22222", "22222")
    np.testing.assert_array_equal(CleanUp(min_pixels=3).apply(mask), expected)


def test_a_component_of_exactly_min_pixels_stays() -> None:
    mask = draw("0000", "0110", "0100", "0000")
    assert CleanUp(min_pixels=3).apply(mask) is mask
    assert not CleanUp(min_pixels=4).apply(mask).any()


def test_a_speck_of_class_zero_is_removed_as_any_other() -> None:
    np.testing.assert_array_equal(CleanUp(min_pixels=2).apply(draw("111", "101", "111")), draw("111", "111", "111"))


def test_a_small_component_between_two_others_is_shared_by_nearness() -> None:
    cleaned = CleanUp(min_pixels=7).apply(draw(*["1111332222"] * 3))
    np.testing.assert_array_equal(cleaned, draw(*["1111122222"] * 3))


def test_small_components_side_by_side_do_not_take_the_class_of_each_other() -> None:
    assert not CleanUp(min_pixels=2).apply(draw("0000", "0120", "0000")).any()


def test_pixels_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.eye(6, dtype=np.uint8)
    assert CleanUp(min_pixels=6).apply(mask) is mask


def test_a_mask_of_small_components_only_stays() -> None:
    mask = draw("01", "23")
    assert CleanUp(min_pixels=2).apply(mask) is mask


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(11, 13), (4, 5, 6)])
def test_what_is_small_in_a_flood_fill_takes_the_class_of_a_nearest_other(seed: int, shape: tuple[int, ...]) -> None:
    mask = random_mask(seed, shape=shape)
    removed = set[Place]().union(*(pixels for _, pixels in components(mask) if len(pixels) < 6))
    assert removed
    assert_replaced_by_nearest(mask, CleanUp(min_pixels=6).apply(mask), removed)


@settings(max_examples=20, deadline=None)
@given(masks, st.integers(2, 20))
def test_no_small_component_is_left_unless_all_are_small(mask: np.ndarray, min_pixels: int) -> None:
    cleaned = CleanUp(min_pixels).apply(mask)
    sizes = [len(pixels) for _, pixels in components(mask)]
    if max(sizes) < min_pixels:
        assert cleaned is mask
    else:
        assert min(len(pixels) for _, pixels in components(cleaned)) >= min_pixels


# Holes


def test_a_hole_becomes_the_class_around_it() -> None:
    mask = draw("00000", "02220", "02020", "02220", "00000")
    np.testing.assert_array_equal(
        CleanUp(fill_holes=True).apply(mask), draw("00000", "02220", "02220", "02220", "00000")
    )


def test_a_bay_that_is_open_is_no_hole() -> None:
    mask = draw("00000", "01110", "01000", "01110", "00000")
    assert CleanUp(fill_holes=True).apply(mask) is mask


def test_a_region_at_the_border_is_no_hole() -> None:
    mask = draw("0100", "1100", "0000")
    assert CleanUp(fill_holes=True).apply(mask) is mask


def test_a_ring_whose_pixels_touch_at_corners_only_is_closed() -> None:
    ring, disk = draw("00100", "01010", "10001", "01010", "00100"), draw("00100", "01110", "11111", "01110", "00100")
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(ring), disk)


def test_another_class_inside_is_no_hole() -> None:
    mask = draw("1111", "1231", "1111")
    assert CleanUp(fill_holes=True).apply(mask) is mask


def test_another_class_in_a_hole_stays() -> None:
    mask = draw("1111111", "1000001", "1022001", "1000001", "1111111")
    expected = draw("1111111", "1111111", "1122111", "1111111", "1111111")
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(mask), expected)


def test_a_hole_beside_a_class_that_does_not_close_it_in_becomes_the_one_that_does() -> None:
    mask = draw("11111", "12201", "11111")
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(mask), draw("11111", "12211", "11111"))


def test_a_gap_that_does_not_border_on_the_class_around_it_stays() -> None:
    mask = draw("1111111", "1222331", "1220331", "1222331", "1111111")
    assert CleanUp(fill_holes=True).apply(mask) is mask


def rings(*indices: int) -> np.ndarray:
    """Nested squares of one pixel in width, from the outermost."""
    side = 2 * len(indices) - 1
    mask = np.zeros((side, side), np.uint8)
    for number, index in enumerate(indices):
        mask[number : side - number, number : side - number] = index
    return mask


def test_each_ring_within_a_ring_fills_its_own_hole() -> None:
    cleaned = CleanUp(fill_holes=True).apply(rings(1, 0, 2, 0, 3, 0))
    np.testing.assert_array_equal(cleaned, rings(1, 1, 2, 2, 3, 3))


def test_a_ring_within_a_ring_of_its_class_becomes_one_disk() -> None:
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(rings(2, 0, 2, 0)), rings(2, 2, 2, 2))


def test_where_rings_cross_a_hole_becomes_the_lower_class() -> None:
    mask = draw(
        "11111100",
        "12222100",
        "12001222",
        "12001002",
        "12111002",
        "11200002",
        "00200002",
        "00222222",
    )
    expected = draw(
        "11111100",
        "12222100",
        "12111222",
        "12111222",
        "12111222",
        "11222222",
        "00222222",
        "00222222",
    )
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(mask), expected)


@settings(max_examples=20, deadline=None)
@given(masks)
def test_holes_are_those_of_a_flood_fill(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(CleanUp(fill_holes=True).apply(mask), fill_slowly(mask))


# Largest component


def test_of_each_class_the_largest_component_stays() -> None:
    mask = draw("1100002", "1001000", "0000022", "3300002")
    expected = draw("1100000", "1000000", "0000022", "3300002")
    np.testing.assert_array_equal(CleanUp(largest_only=True).apply(mask), expected)


def test_class_zero_may_lie_in_pieces() -> None:
    mask = draw("00100", "00100")
    assert CleanUp(largest_only=True).apply(mask) is mask


def test_of_equally_large_components_the_first_in_reading_order_stays() -> None:
    mask = draw("000110", "000000", "110011")
    np.testing.assert_array_equal(CleanUp(largest_only=True).apply(mask), draw("000110", "000000", "000000"))


def test_what_is_removed_inside_another_class_becomes_that_class() -> None:
    mask = draw("11111000", "12211022", "11111022")
    np.testing.assert_array_equal(CleanUp(largest_only=True).apply(mask), draw("11111000", "11111022", "11111022"))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(11, 13), (4, 5, 6)])
def test_what_is_not_largest_in_a_flood_fill_takes_the_class_of_a_nearest_other(
    seed: int, shape: tuple[int, ...]
) -> None:
    mask = random_mask(seed, shape=shape)
    removed: set[Place] = set()
    for index in range(1, 4):
        parts = [pixels for other, pixels in components(mask) if other == index]
        largest = max(parts, key=len)  # the first of several
        removed.update(*(pixels for pixels in parts if pixels is not largest))
    assert removed
    assert_replaced_by_nearest(mask, CleanUp(largest_only=True).apply(mask), removed)


def test_a_pixel_that_would_lie_apart_from_its_new_class_joins_its_neighbors() -> None:
    mask = np.ones((38, 18), np.uint8)
    mask[18] = 0  # what is above is removed
    mask[13, 4], mask[15, 7], mask[17, 14] = 2, 3, 4
    cleaned = CleanUp(largest_only=True).apply(mask)
    # The squared distances of this corner are 290, 289 and 290, but no pixel beside it is nearest to class 3.
    assert cleaned[0, 15] in (2, 4)
    assert [index for index, _ in components(cleaned)] == [2, 4, 3, 0, 1]


@settings(max_examples=20, deadline=None)
@given(masks)
def test_one_component_of_each_class_but_zero_is_left(mask: np.ndarray) -> None:
    found = [index for index, _ in components(CleanUp(largest_only=True).apply(mask)) if index]
    assert sorted(found) == sorted({int(index) for index in np.unique(mask)} - {0})


# Steps together


def test_a_hole_that_the_removal_of_a_speck_closes_is_filled() -> None:
    mask = np.pad(np.ones((9, 9), np.uint8), 1)
    mask[4:7, 4:7] = 0
    mask[5, 7:10] = 2  # the way out
    assert not CleanUp(min_pixels=4).apply(mask)[4:7, 4:7].any()
    assert (CleanUp(min_pixels=4, fill_holes=True).apply(mask)[4:7, 4:9] == 1).all()


def test_a_component_counts_with_its_holes_filled() -> None:
    mask = draw("0000000000", "0111100111", "0100100111", "0100100111", "0111100111", "0000000111")
    expected = draw("0000000000", "0111100000", "0111100000", "0111100000", "0111100000", "0000000000")
    np.testing.assert_array_equal(CleanUp(fill_holes=True, largest_only=True).apply(mask), expected)
    assert CleanUp(largest_only=True).apply(mask)[1, 1] == 0


@settings(max_examples=100, deadline=None)
@given(masks, clean_ups)
def test_a_second_clean_up_changes_nothing(mask: np.ndarray, clean_up: CleanUp) -> None:
    once = clean_up.apply(mask)
    assert clean_up.apply(once) is once


@settings(max_examples=30, deadline=None)
@given(masks, st.integers(0, 20), st.permutations(range(5)))
def test_components_are_removed_whatever_their_class_is_called(
    mask: np.ndarray, min_pixels: int, names: list[int]
) -> None:
    renamed, clean_up = np.array(names, np.uint8), CleanUp(min_pixels)
    np.testing.assert_array_equal(clean_up.apply(renamed[mask]), renamed[clean_up.apply(mask)])


@settings(max_examples=30, deadline=None)
@given(masks, clean_ups, st.permutations(range(1, 5)))
def test_only_class_zero_is_treated_apart(mask: np.ndarray, clean_up: CleanUp, names: list[int]) -> None:
    renamed = np.array([0, *names], np.uint8)
    np.testing.assert_array_equal(clean_up.apply(renamed[mask]), renamed[clean_up.apply(mask)])


# Volumes


def volume() -> np.ndarray:
    """A cube of class 1 with a cavity, in class 0."""
    mask = np.zeros((7, 7, 7), np.uint8)
    mask[1:6, 1:6, 1:6] = 1
    mask[3, 3, 3] = 0
    return mask


def test_a_cavity_in_a_volume_is_a_hole() -> None:
    cleaned = CleanUp(fill_holes=True).apply(volume())
    assert (cleaned[1:6, 1:6, 1:6] == 1).all()
    assert cleaned.sum() == 125


def test_a_tunnel_in_a_volume_is_no_hole() -> None:
    mask = volume()
    mask[3, 3, :] = 0  # each slice across it has a hole
    assert CleanUp(fill_holes=True).apply(mask) is mask


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[range(4), range(4), range(4)] = 1
    assert CleanUp(min_pixels=4, largest_only=True).apply(mask) is mask


def test_small_components_of_a_volume_take_the_class_around_them() -> None:
    mask = volume()
    mask[2, 2, 2] = 2
    np.testing.assert_array_equal(CleanUp(min_pixels=2).apply(mask), CleanUp(fill_holes=True).apply(volume()))


# What comes in and goes out


@settings(max_examples=10, deadline=None)
@given(masks)
def test_without_a_wish_the_mask_stays_as_it_is(mask: np.ndarray) -> None:
    assert CleanUp().apply(mask) is mask


@settings(max_examples=10, deadline=None)
@given(masks, clean_ups)
def test_the_mask_that_comes_is_not_written_to(mask: np.ndarray, clean_up: CleanUp) -> None:
    before = mask.copy()
    mask.setflags(write=False)  # a write would raise
    cleaned = clean_up.apply(mask)
    np.testing.assert_array_equal(mask, before)
    assert cleaned is mask or not np.shares_memory(cleaned, mask)


@settings(max_examples=20, deadline=None)
@given(masks, clean_ups)
def test_views_give_what_their_copies_give(mask: np.ndarray, clean_up: CleanUp) -> None:
    for view in (mask.T, mask[..., ::-1], np.repeat(mask, 2, axis=-1)[..., ::2]):
        np.testing.assert_array_equal(clean_up.apply(view), clean_up.apply(view.copy()))


def test_fewer_than_no_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="min_pixels is -1, but 0 or more are needed; 0 keeps all components"):
        CleanUp(min_pixels=-1)


@pytest.mark.parametrize("shape", [(), (4,), (0, 4)])
def test_a_mask_without_two_axes_or_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask has the shape .* two or more axes without 0 are needed"):
        CleanUp(min_pixels=2).apply(np.zeros(shape, np.uint8))


def test_a_mask_with_void_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="mask holds 255, the label of void pixels"):
        CleanUp(min_pixels=2).apply(np.full((3, 4), 255, np.uint8))
