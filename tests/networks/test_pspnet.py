import math

import pytest
import torch
from torch import nn

from segwright.methods.supervised import Supervised
from segwright.networks.pspnet import VARIANTS, PSPNet, PyramidPooling, convert

SMALL = {"encoder": "test_resnet", "weights": "none", "channels": 16}


def test_defaults_are_the_first_variant():
    with torch.device("meta"):
        default, variant = PSPNet(3, 5, weights="none"), PSPNet(3, 5, weights="none", **VARIANTS["PSPNet-50"])
    assert default.state_dict().keys() == variant.state_dict().keys()


def test_the_encoder_has_the_deep_stem_and_is_dilated_to_an_eighth():
    with torch.device("meta"):
        network = PSPNet(3, 5, weights="none").encoder.network
    assert [network.conv1[i].out_channels for i in (0, 3, 6)] == [64, 64, 128]
    assert {unit.conv2.dilation for unit in network.layer3} == {(2, 2)}
    assert {unit.conv2.dilation for unit in network.layer4} == {(4, 4)}


def test_pyramid_doubles_the_channels():
    with torch.device("meta"):
        pyramid = PyramidPooling(2048, (1, 2, 3, 6))
        assert pyramid(torch.randn(2, 2048, 6, 6)).shape == (2, 4096, 6, 6)


def test_the_level_of_one_part_is_the_same_everywhere():
    joined = PyramidPooling(8, (1, 2, 3, 6)).eval()(torch.randn(1, 8, 7, 13))
    whole, halves = joined[:, :2], joined[:, 2:4]
    assert torch.equal(whole, whole[:, :, :1, :1].expand_as(whole))
    assert not torch.equal(halves, halves[:, :, :1, :1].expand_as(halves))


def test_pools_are_averages():
    pyramid = PyramidPooling(4, (1, 2)).eval()
    x = torch.randn(1, 4, 4, 6)
    quarters = torch.stack([x[..., :2, :3], x[..., :2, 3:], x[..., 2:, :3], x[..., 2:, 3:]], dim=-3).mean(dim=(-2, -1))
    torch.testing.assert_close(pyramid.pools[0](x)[..., 0, 0], x.mean(dim=(2, 3)))
    torch.testing.assert_close(pyramid.pools[1](x).flatten(2), quarters)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 9)])
def test_maps_smaller_than_the_bins_are_taken(size):
    assert PyramidPooling(8, (1, 2, 3, 6)).eval()(torch.randn(1, 8, *size)).shape == (1, 16, *size)


def test_a_batch_of_one_is_trained_without_normalization_of_the_whole():
    network = PSPNet(3, 5, normalize_whole=False, **SMALL)
    assert network(torch.randn(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        PSPNet(3, 5, **SMALL)(torch.randn(1, 3, 64, 64))


def test_the_loss_is_the_main_one_and_two_fifths_of_the_auxiliary_one():
    class Mean(nn.Module):
        def forward(self, logits, mask):
            return logits.mean()

    class WithTerms(nn.Module):
        auxiliary_weight = PSPNet.auxiliary_weight

        def forward_with_terms(self, image, mask, ignore_label):
            return network.forward_all(image), {}

    network = PSPNet(3, 5, **SMALL).eval()
    image, mask = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    main, auxiliary = network.forward_all(image)
    assert auxiliary.shape == (1, 5, 4, 4)
    loss = Supervised(WithTerms(), {"mean": (1.0, Mean())})(image, mask)["loss"]
    torch.testing.assert_close(loss, main.mean() + 0.4 * auxiliary.mean())


def test_without_the_auxiliary_head_there_is_one_output_and_no_weight_of_it():
    network = PSPNet(3, 5, auxiliary_head=False, **SMALL)
    assert len(network.forward_all(torch.randn(2, 3, 32, 32))) == 1
    assert not [name for name in network.state_dict() if "auxiliary" in name]


def test_all_classes_are_about_as_likely_at_the_start():
    torch.manual_seed(0)
    network = PSPNet(3, 5, **SMALL)
    mask = torch.randint(5, (2, 64, 64))
    loss = nn.functional.cross_entropy(network(torch.randn(2, 3, 64, 64)), mask)
    assert loss.item() == pytest.approx(math.log(5), abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 96), (72, 40)])
def test_logits_equal_those_of_segmentation_models_pytorch(size):
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = peers.PSPNet("resnet18", encoder_weights=None, classes=21)
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    arguments = VARIANTS["PSPNet-50-smp"] | {"encoder": "resnet18", "weights": "none"}
    network = PSPNet(3, 21, **arguments).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer.eval()(image), rtol=0, atol=1e-4)
