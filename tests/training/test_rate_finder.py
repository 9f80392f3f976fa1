"""Tests of the learning-rate range test."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from segwright.training.rate_finder import find_rate


def quadratic(curvature: float, start: float = 1.0, offset: float = 0.0) -> Callable[[float], float]:
    """Gradient descent on c x² / 2, whose loss is known: it falls by (1 - rate · c)² a step."""
    place = start

    def step(rate: float) -> float:
        nonlocal place
        loss = curvature * place**2 / 2 + offset
        place -= rate * curvature * place
        return loss

    return step


@pytest.mark.parametrize("curvature", [1.0, 50.0, 3000.0])
@pytest.mark.parametrize("steps", [100, 300])
def test_a_quadratic_falls_fastest_where_its_formula_says(curvature: float, steps: int) -> None:
    sweep = find_rate(quadratic(curvature), highest=10.0, steps=steps)
    # With rates that grow by r a step the loss is about exp(-2 c rate / (1 - 1/r)), and by the logarithm of the rate
    # its slope is steepest where that exponent is -1.
    growth = (10.0 / 1e-7) ** (1 / (steps - 1))
    expected = (1 - 1 / growth) / (2 * curvature)
    assert sweep.suggestion == pytest.approx(expected, rel=0.3)
    assert sweep.suggestion < 2 / curvature  # where gradient descent diverges


def test_a_steeper_problem_gets_a_rate_as_much_lower() -> None:
    gentle = find_rate(quadratic(1.0), lowest=1e-6, highest=10.0)
    steep = find_rate(quadratic(100.0, start=0.1), lowest=1e-8, highest=0.1)
    assert steep.suggestion == pytest.approx(gentle.suggestion / 100, rel=1e-6)


def test_an_offset_of_the_loss_does_not_move_the_suggestion() -> None:
    # Some losses are negative.
    suggestions = {find_rate(quadratic(10.0, offset=offset)).suggestion for offset in (0.0, 2.0, -20.0)}
    assert len(suggestions) == 1


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_batches_keeps_the_suggestion_in_the_useful_range(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    exact = quadratic(10.0, offset=0.5)
    sweep = find_rate(lambda rate: exact(rate) * (1 + 0.1 * float(torch.randn((), generator=generator))))
    assert 1e-3 < sweep.suggestion < 2 / 10.0


def test_a_network_learns_at_the_suggestion_and_hardly_at_a_hundredth_of_it() -> None:
    torch.manual_seed(0)

    def make_step() -> Callable[[float], float]:
        network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(network.parameters(), momentum=0.9)

        def step(rate: float) -> float:
            optimizer.param_groups[0]["lr"] = rate
            image = torch.randn(64, 4)
            loss = (network(image) - image.sum(dim=1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    suggestion = find_rate(make_step(), highest=10.0).suggestion
    after, after_slow = (
        [step(rate) for _ in range(60)][-1]
        for step, rate in ((make_step(), suggestion), (make_step(), suggestion / 100))
    )
    assert after < 0.2
    assert after_slow > 1


def test_rates_grow_by_a_constant_factor_from_the_lowest_to_the_highest() -> None:
    seen = []
    exact = quadratic(1.0)

    def step(rate: float) -> float:
        seen.append(rate)
        return exact(rate)

    sweep = find_rate(step, lowest=1e-5, highest=0.1, steps=41)
    assert sweep.rates == tuple(seen)
    assert sweep.rates == pytest.approx([1e-5 * 10 ** (index / 10) for index in range(41)])


def test_the_smoothed_loss_is_the_bias_corrected_exponential_mean() -> None:
    sweep = find_rate(quadratic(1.0), highest=0.5)
    mean = 0.0
    for index, (loss, smoothed) in enumerate(zip(sweep.losses, sweep.smoothed, strict=True)):
        mean = 0.9 * mean + 0.1 * loss
        assert smoothed == pytest.approx(mean / (1 - 0.9 ** (index + 1)))


def test_the_sweep_ends_when_the_loss_diverges() -> None:
    sweep = find_rate(quadratic(100.0, offset=1.0), highest=10.0)
    assert len(sweep.rates) == len(sweep.losses) == len(sweep.smoothed) < 100
    assert sweep.smoothed[-1] > 4 * min(sweep.smoothed) >= sweep.smoothed[-2]


def test_the_sweep_ends_before_a_loss_that_is_not_finite() -> None:
    exact = quadratic(10.0)
    sweep = find_rate(lambda rate: math.nan if rate > 0.1 else exact(rate))
    assert sweep.rates[-1] < 0.1
    assert all(math.isfinite(value) for value in (*sweep.losses, *sweep.smoothed, sweep.suggestion))


@pytest.mark.parametrize("loss", [lambda rate: 1.0, lambda rate: 1.0 + rate, lambda rate: -1.0])
def test_a_loss_that_never_fell_is_refused_in_one_sentence(loss: Callable[[float], float]) -> None:
    with pytest.raises(ValueError, match="the loss never fell by more than its noise between the learning rates"):
        find_rate(loss)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_is_not_taken_for_a_fall(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with pytest.raises(ValueError, match="never fell"):
        find_rate(lambda rate: 1 + 0.2 * float(torch.randn((), generator=generator)))


def test_a_loss_that_is_not_finite_from_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="no longer finite after 0 steps"):
        find_rate(lambda rate: math.inf)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lowest": 0.0}, "must be positive and grow"),
        ({"lowest": 2.0}, "must be positive and grow"),
        ({"highest": math.inf}, "must be positive and grow"),
        ({"steps": 19}, "at least 20"),
    ],
)
def test_ranges_without_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_rate(quadratic(1.0), **arguments)
