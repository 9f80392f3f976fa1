import pytest
import torch
from torch import nn

from segwright.networks.residual_unet import ResidualUNet, ResidualUnit

SMALL = {"widths": (8, 8, 16, 16)}


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_convolutions_off_the_shortcuts_are_15_and_have_the_published_7_8_million():
    with torch.device("meta"):
        network = ResidualUNet(3, 1)
    units = [module for module in network.modules() if isinstance(module, ResidualUnit)]
    path = [convolution for unit in units for convolution in convolutions(unit.path)] + [network.head]
    assert len(path) == 15
    assert sum(parameter.numel() for module in path for parameter in module.parameters()) == 7_782_913


def test_maps_have_the_sizes_of_table_1():
    network = ResidualUNet(3, 1)
    sizes = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])}))
    with torch.no_grad():
        network.eval()(torch.randn(1, 3, 16, 16))
    assert sizes == {
        "encoder1": (64, 16, 16),
        "encoder2": (128, 8, 8),
        "encoder3": (256, 4, 4),
        "bridge": (512, 2, 2),
        "decoder3": (256, 4, 4),
        "decoder2": (128, 8, 8),
        "decoder1": (64, 16, 16),
        "head": (1, 16, 16),
    }


def test_only_the_first_unit_starts_with_a_convolution():
    network = ResidualUNet(3, 1, **SMALL)
    kinds = {name: type(unit.path[0]) for name, unit in network.named_children() if isinstance(unit, ResidualUnit)}
    assert kinds.pop("encoder1") is nn.Conv2d
    assert set(kinds.values()) == {nn.BatchNorm2d}


def test_nothing_follows_the_sum_of_a_unit():
    unit = ResidualUnit(4, 4)
    nn.init.zeros_(unit.path[-1].weight)
    nn.init.dirac_(unit.shortcut[0].weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(unit(x), x)


@pytest.mark.parametrize("shortcut", [1, 3])
def test_a_unit_with_stride_has_a_shortcut_with_stride(shortcut):
    unit = ResidualUnit(4, 4, stride=2, shortcut=shortcut)
    assert unit.shortcut[0].stride == (2, 2)
    assert unit(torch.randn(1, 4, 6, 8)).shape == (1, 4, 3, 4)


def test_skips_are_joined_behind_what_comes_from_below():
    network = ResidualUNet(3, 1, **SMALL).eval()
    taken = []
    network.decoder3.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    network.encoder3.register_forward_hook(lambda _, inputs, output: taken.append(output))
    network.bridge.register_forward_hook(lambda _, inputs, output: taken.append(output))
    network(torch.randn(1, 3, 16, 16))
    skip, below, joined = taken
    assert torch.equal(joined[:, :16, ::2, 1::2], below)
    assert torch.equal(joined[:, 16:], skip)


def test_features_do_not_grow_from_unit_to_unit_at_the_start():
    torch.manual_seed(0)
    network = ResidualUNet(3, 5, widths=(16, 32, 64, 128))
    squares = []
    for module in network.modules():
        if isinstance(module, ResidualUnit):
            module.register_forward_hook(lambda _, inputs, output: squares.append(output.square().mean().item()))
    network(torch.randn(2, 3, 32, 32))
    assert squares == pytest.approx([1] * 7, rel=0.5)


def test_a_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="widths has 2 numbers, but ResidualUNet needs 4"):
        ResidualUNet(3, 2, widths=(8, 8))
