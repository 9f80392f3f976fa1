"""Tests of the budget of a run."""

import time

import pytest

from segwright.training.budget import Budget


def test_steps_make_progress() -> None:
    budget = Budget(steps=10, seconds=None, started=time.monotonic())
    assert [budget.progress(step) for step in (0, 5, 10, 12)] == [0.0, 0.5, 1.0, 1.0]


def test_seconds_make_progress_and_keep_the_reserve() -> None:
    budget = Budget(steps=None, seconds=100.0, started=time.monotonic() - 40)
    assert budget.progress(0) == pytest.approx(0.4, abs=0.01)
    budget.reserve_s = 20.0
    assert budget.progress(0) == pytest.approx(0.5, abs=0.01)


def test_progress_never_goes_back_when_the_reserve_shrinks() -> None:
    budget = Budget(steps=None, seconds=100.0, started=time.monotonic() - 40, reserve_s=50.0)
    before = budget.progress(0)
    budget.reserve_s = 0.0
    assert budget.progress(0) == before


def test_earlier_sittings_count() -> None:
    budget = Budget(steps=None, seconds=100.0, started=time.monotonic(), elapsed_before_s=70.0)
    assert budget.progress(0) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("limits", [(None, None), (3, 4.0)])
def test_a_run_has_exactly_one_limit(limits: tuple[int | None, float | None]) -> None:
    with pytest.raises(ValueError, match="one limit"):
        Budget(steps=limits[0], seconds=limits[1], started=0.0)


def test_time_left_follows_the_pace_of_this_sitting() -> None:
    budget = Budget(steps=100, seconds=None, started=time.monotonic() - 10, elapsed_before_s=1000.0)
    # The loop of this sitting began 8 s ago at progress 0.5 and is now at 0.7: 12 s to go.
    assert budget.remaining_s(0.7, budget.elapsed_s - 8, 0.5) == pytest.approx(12.0, abs=0.1)
    assert budget.remaining_s(0.5, budget.elapsed_s, 0.5) is None
