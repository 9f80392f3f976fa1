import math

import pytest
import torch
from torch import nn

from segwright.networks.unetplusplus import UNetPlusPlus


def tiny(**arguments):
    torch.manual_seed(0)
    network = UNetPlusPlus(3, 5, width=4, **arguments).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    for head in network.heads.values():
        nn.init.normal_(head.weight)
    return network


def noise(height=32, width=48):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_there_are_15_nodes():
    nodes = {f"{i}_{j}" for i in range(5) for j in range(5 - i)}
    assert set(tiny().nodes) == nodes
    assert len(nodes) == 15


def test_a_node_joins_all_before_it_on_its_skip():
    network = UNetPlusPlus(3, 1)
    for i, width in enumerate((32, 64, 128, 256)):
        for j in range(1, 5 - i):
            assert network.nodes[f"{i}_{j}"][0].in_channels == (j + 1) * width
    assert network.nodes["0_4"][0].in_channels == 5 * 32


def test_what_comes_from_below_is_joined_first():
    network = tiny(depth=2)
    seen = {}
    for name, node in network.nodes.items():
        node.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    network(noise())
    up = network.ups["0_2"](seen["1_1"][1])
    assert torch.equal(seen["0_2"][0], torch.cat([up, seen["0_0"][1], seen["0_1"][1]], dim=1))


def test_sizes_halve_down_the_encoder():
    network = tiny()
    sizes = {}
    for name, node in network.nodes.items():
        node.register_forward_hook(lambda *a, name=name: sizes.update({name: tuple(a[2].shape[1:])}))
    network(noise())
    assert all(sizes[f"{i}_{j}"] == (4 * 2**i, 32 // 2**i, 48 // 2**i) for i in range(5) for j in range(5 - i))


@pytest.mark.parametrize("norm", ["none", "all"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_pruned_network_equals_the_head_of_the_whole_one_bit_by_bit(depth, norm):
    network = tiny(norm=norm)
    deepest_first = network.forward_all(noise())
    assert torch.equal(network.pruned(depth)(noise()), deepest_first[4 - depth])


def test_pruning_removes_the_nodes():
    pruned = tiny().pruned(2)
    names = {".".join(name.split(".")[:2]) for name in pruned.state_dict()}
    assert {name for name in names if name.startswith("nodes")} == {
        f"nodes.{i}_{j}" for i, j in ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2))
    }
    assert {name for name in names if name.startswith("ups")} == {"ups.0_1", "ups.1_1", "ups.0_2"}
    assert {name for name in names if name.startswith("heads")} == {"heads.2"}


def test_a_pruned_network_is_the_network_of_that_depth():
    pruned = tiny(mode="accurate").pruned(2)
    built = UNetPlusPlus(3, 5, width=4, depth=2, deep_supervision=False).eval()
    built.load_state_dict(pruned.state_dict())
    assert pruned.stride == built.stride == 4
    image = noise(20, 12)
    assert torch.equal(pruned(image), built(image))
    assert [output.shape for output in pruned.forward_all(image)] == [(2, 5, 20, 12)]


def test_pruning_leaves_the_whole_network_as_it_is():
    network = tiny()
    before = network(noise())
    network.pruned(1)
    assert torch.equal(network(noise()), before)
    assert network.stride == 16


def test_without_deep_supervision_no_other_depth_was_trained():
    with pytest.raises(ValueError, match="depth is 2, but UNetPlusPlus has heads at 4; take one of these"):
        tiny(deep_supervision=False).pruned(2)


def test_the_fast_mode_does_not_look_at_the_other_heads():
    network = tiny()
    before = network(noise())
    for j in "123":
        nn.init.zeros_(network.heads[j].weight)
    assert torch.equal(network(noise()), before)


def test_the_accurate_mode_averages_probabilities():
    network = tiny(mode="accurate")
    logits = network(noise())
    heads = [network.pruned(depth)(noise()) for depth in (1, 2, 3, 4)]
    mean = torch.stack([head.softmax(1) for head in heads]).mean(0)
    torch.testing.assert_close(logits.softmax(1), mean)
    assert (torch.stack(heads).mean(0).softmax(1) - mean).abs().max() > 0.01  # the mean of the logits is another


def test_the_accurate_mode_trains_the_heads_as_the_fast_mode_does():
    fast, accurate = tiny(dropout=0.0).train(), tiny(dropout=0.0, mode="accurate").train()
    for expected, actual in zip(fast.forward_all(noise()), accurate.forward_all(noise()), strict=True):
        assert torch.equal(actual, expected)
    assert torch.equal(accurate(noise()), fast(noise()))


def test_in_the_accurate_mode_all_outputs_start_with_the_mean():
    network = tiny(mode="accurate")
    outputs = network.forward_all(noise())
    assert len(outputs) == 5
    assert torch.equal(outputs[0], network(noise()))
    assert torch.equal(outputs[1], network.pruned(4)(noise()))


def test_the_accurate_mode_needs_all_heads():
    with pytest.raises(ValueError, match="mode is 'accurate', but needs the heads of deep_supervision"):
        tiny(deep_supervision=False, mode="accurate")


def test_a_depth_of_zero_is_refused():
    with pytest.raises(ValueError, match="depth is 0, but UNetPlusPlus needs a depth of 1 or more"):
        tiny(depth=0)


def test_up_kernels_of_four_double_the_size_too():
    assert tiny(up_kernel=4)(noise()).shape == (2, 5, 32, 48)


@pytest.mark.parametrize(("norm", "normalized"), [("none", 0), ("encoder", 5), ("all", 15)])
def test_norm_says_which_nodes_are_normalized(norm, normalized):
    nodes = tiny(norm=norm).nodes
    found = [name for name, node in nodes.items() if any(isinstance(layer, nn.BatchNorm2d) for layer in node)]
    assert len(found) == normalized
    assert norm != "encoder" or all(name.endswith("_0") for name in found)


def test_both_convolutions_of_a_node_are_followed_by_dropout_of_one_half():
    kinds = [type(layer).__name__ for layer in UNetPlusPlus(3, 5, width=4).nodes["1_2"]]
    assert kinds == ["Conv2d", "ReLU", "Dropout"] * 2
    assert UNetPlusPlus(3, 5, width=4).nodes["1_2"][-1].p == 0.5


@pytest.mark.slow
def test_the_accurate_mode_exports():
    network = tiny(mode="accurate", depth=2)
    with torch.no_grad():
        expected = network(noise())
        program = torch.export.export(network, (noise(),))
        torch.testing.assert_close(program.module()(noise()), expected)


@pytest.mark.parametrize("norm", ["none", "all"])
def test_training_starts_with_classes_about_as_likely(norm):
    torch.manual_seed(0)
    network = UNetPlusPlus(3, 21, norm=norm).train()
    mask = torch.randint(0, 21, (2, 32, 32))
    for logits in network.forward_all(torch.randn(2, 3, 32, 32)):
        assert nn.functional.cross_entropy(logits, mask).item() == pytest.approx(math.log(21), abs=0.4)
