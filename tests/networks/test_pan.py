import math

import pytest
import torch
from torch import nn

from segwright.networks.pan import FPA, GAU, PAN, VARIANTS, convert

SMALL = {"encoder": "test_resnet", "weights": "none", "channels": 16, "pyramid_channels": 4}
PEER = "PAN-ResNet50-smp"


class Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full_like(x, self.value)


def test_defaults_are_the_first_variant():
    with torch.device("meta"):
        default, variant = PAN(3, 5, weights="none"), PAN(3, 5, weights="none", **VARIANTS["PAN-ResNet50"])
    assert default.state_dict().keys() == variant.state_dict().keys()


def test_the_encoder_is_dilated_to_a_sixteenth():
    with torch.device("meta"):
        network = PAN(3, 5, weights="none").encoder.network
    assert {unit.conv2.dilation for unit in network.layer3} == {(1, 1)}
    assert {unit.conv2.dilation for unit in network.layer4} == {(2, 2)}
    assert [network.conv1[i].out_channels for i in (0, 3, 6)] == [64, 64, 128]


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
def test_attention_of_one_and_an_average_of_zero_leave_the_main_convolution(downsampling):
    fpa = FPA(6, 8, 4, downsampling=downsampling).eval()
    fpa.widen[2], fpa.global_pooling[2] = Constant(1.0), Constant(0.0)
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(fpa(x), fpa.main(x))


def test_the_average_is_added_after_the_multiplication():
    fpa = FPA(6, 8, 4).eval()
    fpa.widen[2], fpa.global_pooling[2] = Constant(0.0), Constant(3.0)
    assert torch.equal(fpa(torch.randn(2, 6, 9, 11)), torch.full((2, 8, 9, 11), 3.0))


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (7, 9), (6, 6)])
def test_odd_and_tiny_maps_are_taken(downsampling, size):
    fpa = FPA(6, 8, 4, downsampling=downsampling).eval()
    assert fpa(torch.randn(1, 6, *size)).shape == (1, 8, *size)


@pytest.mark.parametrize("downsampling", ["stride", "max_pool"])
def test_the_pyramid_is_at_a_half_a_quarter_and_an_eighth(downsampling):
    fpa = FPA(6, 8, 4, downsampling=downsampling).eval()
    shapes = []
    for down in fpa.down:
        down.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[2:])))
    fpa(torch.randn(1, 6, 16, 24))
    assert shapes == [(8, 12), (4, 6), (2, 3)]


def test_the_pyramid_has_kernels_of_7_5_and_3():
    fpa = FPA(6, 8, 4)
    for levels in (fpa.down, fpa.level):
        assert [level[0].kernel_size for level in levels] == [(7, 7), (5, 5), (3, 3)]


def test_a_pyramid_of_512_channels_has_the_published_weights_but_for_the_way_up():
    with torch.device("meta"):
        fpa = FPA(2048, 2048, 512)
    # The unofficial build enlarges by three transposed convolutions of 4 x 4, the last of which widens.
    transposed = 16 * 512 * (512 + 512 + 2048) + 2 * (512 + 512 + 2048)
    widen = sum(value.numel() for value in fpa.widen.parameters())
    assert sum(value.numel() for value in fpa.parameters()) - widen + transposed == 115_625_984


def test_a_pyramid_of_one_channel_weights_all_channels_alike():
    fpa = FPA(6, 8, 1).eval()
    fpa.main[2], fpa.global_pooling[2] = Constant(1.0), Constant(0.0)
    y = fpa(torch.randn(1, 6, 8, 8))
    assert torch.equal(y, y[:, :1].expand_as(y))


@pytest.mark.parametrize("gate", ["relu", "sigmoid"])
def test_a_gate_of_zero_leaves_the_enlarged_coarse_map(gate):
    gau = GAU(6, 8, gate=gate).eval()
    gau.gate[2] = Constant(0.0)
    coarse = torch.randn(2, 8, 3, 5)
    expected = nn.functional.interpolate(coarse, (7, 9), mode="bilinear", align_corners=True)
    assert torch.equal(gau(torch.randn(2, 6, 7, 9), coarse), expected)


def test_the_coarse_map_weights_channels_and_not_pixels():
    gau = GAU(6, 8).eval()
    gau.fine[1] = Constant(1.0)
    weighted = gau(torch.randn(1, 6, 6, 10), torch.zeros(1, 8, 3, 5))
    assert torch.equal(weighted, weighted[:, :, :1, :1].expand_as(weighted))


def test_the_paper_gates_by_relu_and_leaves_the_fine_map_as_it_is():
    gau = GAU(6, 8)
    assert [type(gau.gate[2]), type(gau.fine[2])] == [nn.ReLU, nn.Identity]


def test_one_block_of_upsampling_follows_for_each_finer_stage():
    network = PAN(3, 5, **SMALL)
    shapes = []
    for gau in network.gaus:
        gau.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[2:])))
    network.eval()(torch.randn(1, 3, 96, 160))
    assert shapes == [(6, 10), (12, 20), (24, 40)]


def test_all_classes_are_about_as_likely_at_the_start():
    torch.manual_seed(0)
    network = PAN(3, 5, **SMALL)
    mask = torch.randint(5, (2, 64, 64))
    loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), mask)
    assert loss.item() == pytest.approx(math.log(5), abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(128, 256), (160, 192), (224, 144)])
def test_logits_equal_those_of_segmentation_models_pytorch(size):
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = peers.PAN("resnet18", encoder_weights=None, classes=21)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    network = PAN(3, 21, **VARIANTS[PEER] | {"encoder": "resnet18", "weights": "none"}).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer.eval()(image), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_size_that_crashes_the_peer_is_taken():
    network = PAN(3, 5, **VARIANTS[PEER] | {"encoder": "test_resnet", "weights": "none"}).eval()
    assert network(torch.randn(1, 3, 96, 96)).shape == (1, 5, 96, 96)
