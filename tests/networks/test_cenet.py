import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.networks.cenet import DAC, RMP, CENet


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(**arguments):
    with torch.device("meta"):
        return CENet(3, 1, weights="none", **arguments)


def test_dac_and_rmp_have_the_published_weights():
    network = on_meta()
    assert count(network.dac) == 7_342_080
    assert count(network.rmp) == 513


def test_dac_has_four_convolutions_that_its_branches_share():
    dac = DAC(4)
    convolutions = [module for module in dac.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.kernel_size[0], c.dilation[0]) for c in convolutions] == [(3, 1), (3, 3), (3, 5), (1, 1)]


def test_dac_adds_the_four_branches_to_its_input():
    torch.manual_seed(0)
    dac = DAC(4)
    for bias in (dac.rate1.bias, dac.rate3.bias, dac.rate5.bias, dac.pixel.bias):
        nn.init.normal_(bias)
    x = torch.randn(2, 4, 9, 9)
    chains = [
        [dac.rate1],
        [dac.rate3, dac.pixel],
        [dac.rate1, dac.rate3, dac.pixel],
        [dac.rate1, dac.rate3, dac.rate5, dac.pixel],
    ]
    expected = x.clone()
    for chain in chains:
        y = x
        for convolution in chain:
            y = convolution(y)
        expected += y.relu()
    torch.testing.assert_close(dac(x), expected)


@pytest.mark.parametrize(("branch", "side"), [(1, 3), (2, 7), (3, 9), (4, 19)])
def test_branches_of_the_dac_see_3_7_9_and_19_cells(branch, side):
    dac = DAC(1)
    for parameter in dac.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 1, 31, 31, requires_grad=True)
    seen = []
    getattr(dac, f"activation{branch}").register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    dac(x)
    seen[0][0, 0, 15, 15].backward()
    rows = x.grad[0, 0].any(dim=1).nonzero()
    assert rows.max() - rows.min() + 1 == side


def test_biases_of_the_dac_start_at_zero():
    network = CENet(3, 1, encoder="test_resnet", weights="none")
    assert not any(value.any() for name, value in network.dac.named_parameters() if name.endswith("bias"))


def test_rmp_puts_four_channels_in_front():
    rmp = RMP(6)
    x = torch.randn(2, 6, 14, 14)
    result = rmp(x)
    assert result.shape == (2, 10, 14, 14)
    assert torch.equal(result[:, 4:], x)


@pytest.mark.parametrize("size", [(14, 14), (6, 7), (16, 12)])
def test_rmp_pools_in_windows_of_2_3_5_and_6(size):
    torch.manual_seed(0)
    rmp = RMP(6)
    x = torch.randn(2, 6, *size)
    expected = [
        F.interpolate(rmp.pixel(nn.MaxPool2d(window)(x)), size, mode="bilinear", align_corners=False)
        for window in (2, 3, 5, 6)
    ]
    torch.testing.assert_close(rmp(x)[:, :4], torch.cat(expected, dim=1))


def test_windows_shrink_to_a_map_that_is_smaller():
    torch.manual_seed(0)
    rmp = RMP(6)
    x = torch.randn(1, 6, 4, 20)
    pooled = F.max_pool2d(x, (4, 6))
    assert pooled.shape[2:] == (1, 3)
    torch.testing.assert_close(rmp(x)[:, 3:4], F.interpolate(rmp.pixel(pooled), (4, 20), mode="bilinear"))
    assert rmp(x[..., :1, :1]).shape == (1, 10, 1, 1)


def test_widths_of_the_decoder_are_the_published_ones():
    network = on_meta()
    steps = [network.decoder4, network.decoder3, network.decoder2, network.decoder1]
    assert [(step[0].in_channels, step[6].out_channels) for step in steps] == [
        (516, 256), (256, 128), (128, 64), (64, 64),
    ]  # fmt: skip


def test_skips_are_added_at_a_sixteenth_an_eighth_and_a_quarter():
    network = CENet(3, 2, encoder="test_resnet", weights="none").eval()
    image = torch.randn(1, 3, 64, 96)
    e1, e2, e3, e4 = network.encoder(image)
    assert [e.shape[3] for e in (e1, e2, e3, e4)] == [24, 12, 6, 3]
    x = network.decoder4(network.rmp(network.dac(e4))) + e3
    x = network.decoder2(network.decoder3(x) + e2) + e1
    torch.testing.assert_close(network(image), network.head(network.decoder1(x)))


@pytest.mark.slow
def test_448_pixels_come_out_as_448():
    network = CENet(3, 1, weights="none").eval()
    maps = []
    network.dac.register_forward_hook(lambda *arguments: maps.append(arguments[2]))
    with torch.no_grad():
        assert network(torch.randn(1, 3, 448, 448)).shape == (1, 1, 448, 448)
    assert maps[0].shape == (1, 512, 14, 14)
