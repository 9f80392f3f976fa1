from functools import cache

import pytest
import torch
from torch import nn

from segwright.networks.fc_densenet import VARIANTS, DenseBlock, FCDenseNet, TransitionUp

SMALL = {"layers": (2, 3, 2, 3, 2), "growth": 4, "first_channels": 8}


@cache
def on_meta(variant):
    with torch.device("meta"):
        return FCDenseNet(3, 11, **VARIANTS[variant])


@pytest.mark.parametrize("depth", [56, 67, 103])
def test_the_number_in_the_name_counts_the_convolutions(depth):
    network = on_meta(f"FC-DenseNet{depth}")
    assert sum(isinstance(module, nn.Conv2d | nn.ConvTranspose2d) for module in network.modules()) == depth


def test_only_the_new_maps_of_the_block_below_go_up():
    network = on_meta("FC-DenseNet103")
    assert [step.convolution.in_channels for step in network.transitions_up] == [240, 192, 160, 112, 80]
    assert [step.convolution.out_channels for step in network.transitions_up] == [240, 192, 160, 112, 80]


def test_all_maps_of_the_last_block_go_to_the_classifier():
    assert on_meta("FC-DenseNet103").classifier.in_channels == 256


def test_stacks_of_the_way_down_and_up_have_the_published_channels():
    network = on_meta("FC-DenseNet103")

    def stack(block):
        return block.layers[-1].layer[2].in_channels + 16

    assert [stack(block) for block in network.down_blocks] == [112, 192, 304, 464, 656]
    assert stack(network.bottleneck) == 896
    assert [stack(block) for block in network.up_blocks] == [1088, 816, 576, 384, 256]


def test_with_the_statistics_of_the_normalizations_there_are_9_4_million_numbers():
    network = on_meta("FC-DenseNet103")
    statistics = [value for name, value in network.named_buffers() if "running" in name]
    assert sum(value.numel() for value in [*network.parameters(), *statistics]) == 9_425_163


def test_first_convolution_sees_the_image_itself():
    seen = []
    network = FCDenseNet(3, 5, **SMALL).eval()
    network.first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 8, 8)
    network(image)
    assert torch.equal(seen[0], image)


def test_a_block_hands_on_its_new_maps_only():
    torch.manual_seed(0)
    block = DenseBlock(6, 3, 4, 0.0, checkpointing=False).eval()
    maps = block(torch.randn(1, 6, 5, 5))
    assert maps.shape == (1, 12, 5, 5)


def test_each_layer_sees_the_input_and_all_layers_before():
    torch.manual_seed(0)
    block = DenseBlock(6, 3, 4, 0.0, checkpointing=False).eval()
    x = torch.randn(1, 6, 5, 5)
    seen = []
    block.layers[2].layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = block(x)
    assert torch.equal(seen[0], torch.cat([x, maps[:, :8]], dim=1))


def test_way_down_goes_on_with_input_and_new_maps_and_so_does_the_skip():
    torch.manual_seed(0)
    network = FCDenseNet(3, 5, **SMALL).eval()
    down, up = [], []
    network.transitions_down[0].register_forward_pre_hook(lambda _, inputs: down.append(inputs[0]))
    network.transitions_up[1].register_forward_pre_hook(lambda _, inputs: up.append(inputs[1]))
    image = torch.randn(1, 3, 8, 8)
    network(image)
    x = network.first(image)
    torch.testing.assert_close(down[0], torch.cat([x, network.down_blocks[0](x)], dim=1))
    assert torch.equal(up[0], down[0])


def test_logits_are_those_of_a_stack_that_grows_layer_by_layer():
    torch.manual_seed(0)
    network = FCDenseNet(3, 5, **SMALL).eval()
    image = torch.randn(1, 3, 8, 16)
    stack, skips = network.first(image), []
    for block, transition_down in zip(network.down_blocks, network.transitions_down, strict=True):
        for layer in block.layers:
            stack = torch.cat([stack, layer(stack)], dim=1)
        skips.append(stack)
        stack = transition_down(stack)
    for block, transition_up in zip(
        [network.bottleneck, *network.up_blocks], [*network.transitions_up, None], strict=True
    ):
        size = stack.shape[1]
        for layer in block.layers:
            stack = torch.cat([stack, layer(stack)], dim=1)
        if transition_up is not None:
            stack = transition_up(stack[:, size:], skips.pop())
    torch.testing.assert_close(network(image), network.classifier(stack))


def test_a_cell_is_enlarged_to_three_pixels_from_its_first_on():
    step = TransitionUp(1)
    new, skip = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 6, 6)
    nn.init.zeros_(step.convolution.bias)
    new[0, 0, 1, 1] = 1
    up = step(new, skip)[0, 0]
    torch.testing.assert_close(up[2:5, 2:5], step.convolution.weight[0, 0])
    up[2:5, 2:5] = 0
    assert not up.any()


def run(checkpointing):
    torch.manual_seed(0)
    network = FCDenseNet(3, 5, checkpointing=checkpointing, **SMALL).double()
    kept = {}

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        logits = network(image)
    logits.square().sum().backward()
    return logits, network, sum(kept.values())


def test_checkpointing_changes_neither_logits_nor_gradients_nor_statistics():
    (logits, network, _), (plain_logits, plain_network, _) = run(True), run(False)
    torch.testing.assert_close(logits, plain_logits)
    for parameter, plain in zip(network.parameters(), plain_network.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, plain.grad)
    statistics = [value for name, value in network.named_buffers() if "running" in name]
    plain_statistics = [value for name, value in plain_network.named_buffers() if "running" in name]
    torch.testing.assert_close(statistics, plain_statistics)


def test_checkpointing_keeps_less_than_half_of_the_values():
    assert run(True)[2] < 0.5 * run(False)[2]


def test_fewer_blocks_need_smaller_multiples():
    assert FCDenseNet(3, 5, **SMALL).stride == 4


def test_an_even_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match="layers has 4 blocks, but FCDenseNet needs an odd number"):
        FCDenseNet(3, 5, layers=(2, 2, 2, 2))
