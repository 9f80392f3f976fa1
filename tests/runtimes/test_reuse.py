"""Tests of memory that is used again."""

import gc

import numpy as np

from segwright.runtimes.reuse import ReusedMemory


def place(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def test_memory_of_an_array_that_nobody_holds_is_given_again() -> None:
    memory = ReusedMemory()
    first = memory.array((2, 3, 4))
    first[:] = 1
    where = place(first)
    del first
    second = memory.array((4, 3, 2))
    assert place(second) == where
    assert (second.shape, second.dtype) == ((4, 3, 2), np.float32)


def test_memory_is_not_given_again_while_a_view_of_it_is_held() -> None:
    memory = ReusedMemory()
    array = memory.array((2, 30, 40))
    array[:] = 7
    views = [array[0][3:5], array.reshape(-1)[::2].T, np.asarray(array)[..., None]]
    wheres = {place(array)}
    del array
    while views:
        gc.collect()
        other = memory.array((2, 30, 40))
        other[:] = 0
        wheres.add(place(other))
        assert all((view == 7).all() for view in views)
        views.pop()
        del other
    assert len(wheres) == 2
    assert place(memory.array((2, 30, 40))) in wheres


def test_memory_of_another_size_is_let_go() -> None:
    memory = ReusedMemory()
    for side in (3, 4, 5):
        memory.array((side, side))
    assert [len(free) for free in memory._free] == [100]


def test_an_array_outlives_what_gave_it() -> None:
    array = ReusedMemory().array((3, 3))
    gc.collect()
    array[:] = 2
    assert array.sum() == 18
