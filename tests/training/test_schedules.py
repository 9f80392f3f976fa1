"""Tests of the learning-rate schedules."""

import pytest

from segwright.training import schedules

ALL = [schedules.poly(), schedules.cosine(), schedules.step(), schedules.one_cycle()]


@pytest.mark.parametrize("schedule", ALL)
def test_a_factor_stays_between_zero_and_one(schedule: schedules.Schedule) -> None:
    factors = [schedule(index / 200) for index in range(201)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0
    assert max(factors) > 0.9


def test_poly_follows_its_formula_after_the_warm_up() -> None:
    poly = schedules.poly(power=0.9, warmup=0.0)
    assert poly(0.0) == 1.0
    assert poly(0.5) == pytest.approx(0.5359, abs=1e-4)
    assert poly(0.75) == pytest.approx(0.2872, abs=1e-4)
    assert poly(1.0) == 0.0


def test_warm_up_rises_in_a_straight_line() -> None:
    step = schedules.step(milestones=(), warmup=0.2)
    assert step(0.05) == pytest.approx(0.25)
    assert step(0.1) == pytest.approx(0.5)
    assert step(0.2) == 1.0


def test_cosine_is_half_way_down_in_the_middle_and_ends_on_its_floor() -> None:
    cosine = schedules.cosine(floor=0.1, warmup=0.0)
    assert cosine(0.5) == pytest.approx(0.55)
    assert cosine(1.0) == pytest.approx(0.1)


def test_step_falls_at_its_milestones() -> None:
    step = schedules.step(milestones=(0.5, 0.8), gamma=0.1, warmup=0.0)
    assert [step(p) for p in (0.49, 0.5, 0.79, 0.8)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_one_cycle_peaks_where_it_should() -> None:
    cycle = schedules.one_cycle(peak=0.3)
    assert cycle(0.3) == pytest.approx(1.0)
    assert cycle(0.0) == pytest.approx(0.04)
    assert cycle(1.0) == pytest.approx(0.0, abs=1e-9)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.warmup"):
        schedules.poly(warmup=1.0)
