import math

import pytest
import torch
from torch import nn

from segwright.networks.refinenet import (
    RCU,
    VARIANTS,
    ChainedResidualPooling,
    MultiResolutionFusion,
    RefineNet,
    RefineNetBlock,
)

SMALL = {"encoder": "test_resnet", "weights": "none", "widths": (16, 8, 8, 8)}


def silence(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def test_defaults_are_the_first_variant():
    with torch.device("meta"):
        default = RefineNet(3, 5, weights="none")
        variant = RefineNet(3, 5, weights="none", **VARIANTS["RefineNet-ResNet50"])
    assert default.state_dict().keys() == variant.state_dict().keys()


def test_a_unit_without_weights_is_the_identity():
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(silence(RCU(4))(x), x)


def test_negative_values_leave_a_unit():
    torch.manual_seed(0)
    assert RCU(4)(torch.randn(1, 4, 5, 6)).min() < 0


def test_a_unit_of_256_channels_has_the_published_weights():
    shapes = [value for value in RCU(256).parameters() if value.ndim == 4]
    assert sum(value.numel() for value in shapes) == 1_179_648


def test_a_unit_rectifies_before_each_convolution_and_leaves_its_input_alone():
    torch.manual_seed(0)
    unit = RCU(4)
    x = torch.randn(1, 4, 5, 6)
    kept = x.clone()
    first, second = unit.path[1], unit.path[3]
    torch.testing.assert_close(unit(x), x + second(first(x.clamp(min=0)).clamp(min=0)))
    assert torch.equal(x, kept)


def test_a_chain_without_weights_is_a_relu_that_leaves_its_input_alone():
    chain = silence(ChainedResidualPooling(4, 2))
    x = torch.randn(2, 4, 7, 5)
    kept = x.clone()
    assert torch.equal(chain(x), x.clamp(min=0))
    assert torch.equal(x, kept)


def test_a_chain_pools_before_it_filters():
    torch.manual_seed(0)
    chain = ChainedResidualPooling(3, 2)
    x = torch.randn(1, 3, 9, 11)
    pool = nn.MaxPool2d(5, stride=1, padding=2)
    first, second = (stage[1] for stage in chain.chain)
    start = x.clamp(min=0)
    path = first(pool(start))
    torch.testing.assert_close(chain(x), start + path + second(pool(path)))


@pytest.mark.parametrize("widths", [(8, 16), (16, 8)])
def test_fusion_takes_the_narrower_width_and_the_larger_size(widths):
    fine, coarse = widths
    fusion = MultiResolutionFusion(fine, coarse)
    assert fusion(torch.randn(1, fine, 6, 10), torch.randn(1, coarse, 3, 5)).shape == (1, 8, 6, 10)


def test_fusion_is_linear():
    fusion = MultiResolutionFusion(3, 4)
    fine, coarse = torch.randn(1, 3, 6, 10), torch.randn(1, 4, 3, 5)
    torch.testing.assert_close(fusion(-2 * fine, -2 * coarse), -2 * fusion(fine, coarse))


def test_the_coarsest_block_has_nothing_to_fuse():
    first, *others = RefineNet(3, 5, **SMALL).blocks
    assert first.fusion is None
    assert all(block.fusion is not None for block in others)


def test_only_the_coarsest_map_is_adapted_to_512_channels():
    with torch.device("meta"):
        network = RefineNet(3, 5, weights="none")
    assert [block.adapt[0].out_channels for block in network.blocks] == [512, 256, 256, 256]
    assert [block.adapt[0].in_channels for block in network.blocks] == [2048, 1024, 512, 256]


def test_nothing_but_the_encoder_is_normalized():
    assert not [module for module in RefineNet(3, 5, **SMALL).blocks.modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_defaults_have_two_pools_and_three_units_in_the_last_block():
    with torch.device("meta"):
        network = RefineNet(3, 5, weights="none")
    assert [len(block.pooling.chain) for block in network.blocks] == [2, 2, 2, 2]
    assert [len(block.output) for block in network.blocks] == [1, 1, 1, 3]


def test_logits_are_made_at_a_quarter():
    network = RefineNet(3, 5, **SMALL).eval()
    shapes = []
    network.head.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    assert network(torch.randn(1, 3, 256, 256)).shape == (1, 5, 256, 256)
    assert shapes == [(1, 5, 64, 64)]


def test_the_two_coarsest_maps_are_dropped_out():
    network = RefineNet(3, 5, **SMALL)
    assert [block.dropout.p for block in network.blocks] == [0.5, 0.5, 0, 0]


def test_a_block_takes_a_coarse_map_of_any_size():
    block = RefineNetBlock(6, 8, 16, pools=2, output_units=1, dropout=0.0)
    assert block(torch.randn(1, 6, 7, 5), torch.randn(1, 16, 4, 3)).shape == (1, 8, 7, 5)


def test_new_convolutions_start_small_so_that_all_classes_are_about_as_likely():
    torch.manual_seed(0)
    network = RefineNet(3, 5, encoder="test_resnet", weights="none", widths=(128, 64, 64, 64)).eval()
    assert network.blocks[0].adapt[1].path[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    mask = torch.randint(5, (1, 64, 64))
    loss = nn.functional.cross_entropy(network(torch.randn(1, 3, 64, 64)), mask)
    assert loss.item() == pytest.approx(math.log(5), abs=0.1)


@pytest.mark.parametrize("name", ["widths", "output_units"])
def test_a_wrong_number_of_values_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} has 3 values, but RefineNet needs 4"):
        RefineNet(3, 5, **SMALL | {name: (8, 8, 8)})
