"""Tests of the watch over gradients."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from segwright.training.gradients import GradientWatch, StageNorms, stage_norms, stage_parameters


def tower(num_stages: int = 5) -> nn.Sequential:
    """Stages "stage0", "stage1", … of one linear layer each, with gradients as large as the weights."""
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict((f"stage{index}", nn.Linear(3, 3)) for index in range(num_stages)))
    set_gradients(network, {})
    return network


def set_gradients(network: nn.Module, ratios: dict[str, float], others: float = 1.0) -> None:
    """Give each stage a gradient of a ratio to its weights."""
    for name, parameter in network.named_parameters():
        parameter.grad = parameter.detach() * ratios.get(name.split(".")[0], others)


def row(*names: str) -> nn.Module:
    """A network whose modules have these names, each a layer with a weight and a bias."""
    network = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        place = network
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        place.add_module(last, nn.Linear(1, 1))
    return network


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        # What all have in common is no choice, so it does not count as a level.
        (["network.body.encoder", "network.body.decoder"], ["network.body.encoder", "network.body.decoder"]),
        (["encoder.0.a", "encoder.0.b", "encoder.1", "head"], ["encoder.0", "encoder.1", "head"]),
        # The encoder and the decoder open up; the heads would make 15.
        (
            [f"{part}.{index}" for part in ("encoder", "decoder", "heads") for index in range(5)],
            [*(f"{part}.{index}" for part in ("encoder", "decoder") for index in range(5)), "heads"],
        ),
        ([str(index) for index in range(25)], [*(f"{i} to {i + 2}" for i in range(0, 24, 3)), "24"]),
    ],
)  # fmt: skip
def test_stages_are_named_as_in_the_network_and_few(names: list[str], stages: list[str]) -> None:
    found = stage_parameters(row(*names))
    assert list(found) == stages
    assert sum(len(parameters) for parameters in found.values()) == 2 * len(names)


def test_parameters_of_the_network_itself_are_stages() -> None:
    network = row("encoder.0", "encoder.1")
    network.position = nn.Parameter(torch.zeros(3))
    network.encoder.scale = nn.Parameter(torch.zeros(3))
    assert list(stage_parameters(network)) == ["position", "encoder", "encoder.0", "encoder.1"]
    assert list(stage_parameters(nn.Linear(2, 2))) == ["weight", "bias"]


def test_norms_are_those_of_all_parameters_of_a_stage_in_one_row() -> None:
    network = nn.Sequential(OrderedDict(encoder=nn.Linear(3, 4), head=nn.Linear(4, 2)))
    network(torch.ones(5, 3)).square().sum().backward()
    norms = stage_norms(network)
    for name, stage in network.named_children():
        weights = torch.cat([parameter.detach().flatten() for parameter in stage.parameters()])
        gradients = torch.cat([parameter.grad.flatten() for parameter in stage.parameters()])
        assert norms[name] == pytest.approx((float(gradients.norm()), float(weights.norm())), rel=1e-5)


def test_a_ratio_needs_no_weights() -> None:
    assert [StageNorms(*pair).ratio for pair in ((2.0, 4.0), (1.0, 0.0), (0.0, 0.0))] == [0.5, math.inf, 0.0]


def test_frozen_stages_are_left_out() -> None:
    network = tower()
    network.stage1.requires_grad_(False)
    assert list(stage_norms(network)) == ["stage0", "stage2", "stage3", "stage4"]


def test_a_network_without_gradients_is_refused() -> None:
    network = tower()
    network.zero_grad()
    with pytest.raises(ValueError, match="after backward"):
        GradientWatch().observe(network)


def test_gradients_in_good_order_are_not_mentioned() -> None:
    network, watch = tower(), GradientWatch()
    for index in range(20):
        set_gradients(network, {"stage0": 1e-3, "stage4": 50.0}, others=1.0 + index % 5)
        assert watch.observe(network) == []


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_a_vanished_gradient_is_told_once_after_five_rows_whatever_the_scale_of_the_loss(scale: float) -> None:
    network, watch = tower(), GradientWatch()
    set_gradients(network, {"stage1": 0.9e-5 * scale}, others=scale)
    told = [watch.observe(network) for _ in range(12)]
    assert [len(sentences) for sentences in told] == [0, 0, 0, 0, 1] + 7 * [0]
    assert "reaches stage1:" in told[4][0]


def test_rows_must_follow_each_other() -> None:
    network, watch = tower(), GradientWatch()
    for index in range(20):
        set_gradients(network, {"stage1": 1.0 if index % 5 == 4 else 0.0})
        assert watch.observe(network) == []


def test_stages_that_nothing_reaches_are_told_even_if_they_are_all_but_one() -> None:
    network, watch = tower(), GradientWatch()
    set_gradients(network, {"stage4": 1.0}, others=0.0)
    network.stage0.zero_grad()  # as if the loss did not depend on it
    told = [sentence for _ in range(8) for sentence in watch.observe(network)]
    assert len(told) == 1
    assert "reaches stage0, stage1, stage2 and stage3:" in told[0]


def test_stages_that_nothing_reaches_do_not_hide_one_that_fades() -> None:
    network, watch = tower(9), GradientWatch()
    set_gradients(network, {"stage6": 1e-9, "stage7": 1.0, "stage8": 1.0}, others=0.0)
    told = [sentence for _ in range(8) for sentence in watch.observe(network)]
    assert len(told) == 1
    assert "stage5 and stage6:" in told[0]


def test_new_layers_that_start_at_zero_do_not_make_others_look_vanished() -> None:
    network, watch = tower(), GradientWatch()
    with torch.no_grad():
        for parameter in (*network.stage3.parameters(), *network.stage4.parameters()):
            parameter.zero_()
            parameter.grad.fill_(1.0)
    assert [watch.observe(network) for _ in range(8)] == 8 * [[]]


def test_the_first_layers_of_a_deep_row_of_sigmoids_have_vanishing_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(12)))
    normalized = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Sigmoid()) for _ in range(12)))
    told = []
    for candidate in (network, normalized):
        watch = GradientWatch()
        candidate(torch.randn(32, 16)).square().mean().backward()
        told.append([sentence for _ in range(8) for sentence in watch.observe(candidate)])
    assert len(told[0]) == 1
    assert "reaches 0" in told[0][0]
    assert told[1] == []


def test_an_explosion_is_told_once_in_its_third_row_with_the_stage_that_holds_most_of_it() -> None:
    network, watch = tower(), GradientWatch()
    usual = [watch.observe(network) for _ in range(6)]
    set_gradients(network, {"stage3": 3000.0})
    told = [watch.observe(network) for _ in range(6)]
    assert usual == 6 * [[]]
    assert [len(sentences) for sentences in told] == [0, 0, 1, 0, 0, 0]
    assert "mostly in stage3" in told[2][0]


@pytest.mark.parametrize(("factor", "length"), [(99.0, 6), (1000.0, 2)])
def test_a_high_norm_or_a_short_one_is_no_explosion(factor: float, length: int) -> None:
    network, watch = tower(), GradientWatch()
    for _ in range(3):
        for ratio in [1.0] * 10 + [factor] * length:
            set_gradients(network, {}, others=ratio)
            assert watch.observe(network) == []


def test_batches_of_void_do_not_lower_the_usual_norm() -> None:
    network, watch = tower(), GradientWatch()
    for ratio in 4 * [0.0] + 10 * [1.0]:
        set_gradients(network, {}, others=ratio)
        assert watch.observe(network) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_is_told_once_with_the_stage_that_backward_comes_to_first(value: float) -> None:
    network, watch = tower(), GradientWatch()
    for stage in (network.stage0, network.stage2):
        stage.weight.grad[0, 0] = value
    told = [watch.observe(network) for _ in range(3)]
    assert [len(sentences) for sentences in told] == [1, 0, 0]
    assert told[0][0].startswith("gradients are not finite in stage0 and stage2; backward comes to stage2 first")
    network.stage1.bias.grad[0] = value
    assert "not finite in stage1;" in watch.observe(network)[0]


def test_the_first_broken_stage_is_the_first_by_definition_with_weights_or_gradients_that_are_no_numbers() -> None:
    network = tower()
    assert GradientWatch.first_broken(network) is None
    network.stage3.bias.grad[1] = math.inf
    assert GradientWatch().first_broken(network) == "stage3"
    with torch.no_grad():
        network.stage2.weight[0, 0] = math.nan
    assert GradientWatch.first_broken(network) == "stage2"
    network.stage1.requires_grad_(False).weight[0, 0] = -math.inf
    network.zero_grad()
    assert GradientWatch.first_broken(network) == "stage1"


def test_large_numbers_are_not_broken() -> None:
    network = tower()
    with torch.no_grad():
        network.stage0.weight.fill_(1e30)  # the square overflows single precision
    assert GradientWatch.first_broken(network) is None


def test_nothing_is_changed() -> None:
    network = tower()
    before = [(parameter.detach().clone(), parameter.grad.clone()) for parameter in network.parameters()]
    GradientWatch().observe(network)
    for parameter, (weight, gradient) in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, weight)
        assert torch.equal(parameter.grad, gradient)
