import pytest
import torch
from torch import nn

from segwright.networks.resunetplusplus import ASPP, Attention, DecoderStep, ResidualUnit, ResUNetPlusPlus


def test_maps_have_the_widths_and_sizes_of_figure_1():
    network = ResUNetPlusPlus(3, 1)
    sizes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])}))
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 16, 16))
    assert sizes == {
        "stem": (16, 16, 16),
        "encoder2": (32, 8, 8),
        "encoder3": (64, 4, 4),
        "encoder4": (128, 2, 2),
        "bridge": (256, 2, 2),
        "decoder3": (128, 4, 4),
        "decoder2": (64, 8, 8),
        "decoder1": (32, 16, 16),
        "aspp": (16, 16, 16),
        "head": (1, 16, 16),
    }


def test_channels_are_gated_after_the_sum_eightfold_narrower_and_without_bias():
    unit = ResidualUnit(8, 16, stride=2).eval()
    gate = unit.squeeze_excitation
    assert (gate.squeeze.out_channels, gate.squeeze.bias, gate.excite.bias) == (2, None, None)
    nn.init.zeros_(gate.excite.weight)
    x = torch.randn(1, 8, 6, 8)
    assert torch.equal(unit(x), 0.5 * (unit.path(x) + unit.shortcut(x)))


def test_the_stem_alone_starts_with_a_convolution_and_keeps_the_size():
    network = ResUNetPlusPlus(3, 1)
    units = {name: module for name, module in network.named_modules() if isinstance(module, ResidualUnit)}
    assert [name for name, unit in units.items() if isinstance(unit.path[0], nn.Conv2d)] == ["stem"]
    strides = {name: unit.shortcut[0].stride for name, unit in units.items()}
    assert [name for name, stride in strides.items() if stride == (2, 2)] == ["encoder2", "encoder3", "encoder4"]


def test_the_pyramid_sums_its_branches_without_a_relu():
    pyramid = ASPP(4, 6).eval()
    x = torch.randn(1, 4, 40, 40)
    assert [branch[0].dilation for branch in pyramid.branches] == [(1, 1), (6, 6), (12, 12), (18, 18)]
    assert not [module for module in pyramid.modules() if isinstance(module, nn.ReLU)]
    expected = pyramid.project(torch.stack([branch(x) for branch in pyramid.branches]).sum(dim=0))
    torch.testing.assert_close(pyramid(x), expected)


def test_both_pyramids_start_with_the_variance_of_one_branch():
    torch.manual_seed(0)
    network = ResUNetPlusPlus(3, 1)
    for pyramid in (network.bridge, network.aspp):
        x = torch.randn(2, pyramid.branches[0][0].in_channels, 20, 20)
        assert pyramid(x).var().item() == pytest.approx(1, rel=0.3)


def test_attention_weights_the_deeper_map_by_a_gate_without_bounds():
    attention = Attention(4, 8).eval()
    x, skip = torch.randn(1, 8, 3, 4), torch.randn(1, 4, 6, 8)
    nn.init.zeros_(attention.gate[-1].weight)
    nn.init.constant_(attention.gate[-1].bias, -3.0)
    assert torch.equal(attention(x, skip), -3 * x)


def test_attention_sees_the_skip():
    attention = Attention(4, 8).eval()
    x = torch.randn(1, 8, 3, 4)
    assert not torch.allclose(attention(x, torch.randn(1, 4, 6, 8)), attention(x, torch.randn(1, 4, 6, 8)))


def test_the_raw_skip_is_joined_behind_the_weighted_map():
    step = DecoderStep(8, 4, 6).eval()
    joined = []
    step.unit.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    x, skip = torch.randn(1, 8, 3, 4), torch.randn(1, 4, 6, 8)
    step(x, skip)
    assert torch.equal(joined[0][:, 8:], skip)
    assert torch.equal(joined[0][:, :8, ::2, 1::2], step.attention(x, skip))


def test_a_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="widths has 4 numbers, but ResUNetPlusPlus needs 5"):
        ResUNetPlusPlus(3, 1, widths=(8, 8, 8, 8))
