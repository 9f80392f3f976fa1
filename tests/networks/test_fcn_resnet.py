import pytest
import torch
from torch import nn

from segwright.networks.fcn_resnet import FCNResNet, convert

SMALL = {"encoder": "test_resnet", "weights": "none"}


def trained(network):
    """The network as after some training: every normalization has seen images, and scales and shifts."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 64, 64))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_logits_equal_those_of_torchvision(depth):
    peers = pytest.importorskip("torchvision.models.segmentation")
    make_peer = getattr(peers, f"fcn_resnet{depth}")
    peer = trained(make_peer(weights=None, weights_backbone=None, num_classes=5, aux_loss=True))
    network = FCNResNet(3, 5, encoder=f"resnet{depth}", weights="none").eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = peer(image)
        logits, auxiliary = network.forward_all(image)
    torch.testing.assert_close(logits, expected["out"], rtol=1e-4, atol=1e-4)
    enlarged = nn.functional.interpolate(auxiliary, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected["aux"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_both_heads_see_maps_at_the_output_stride(output_stride):
    network = FCNResNet(3, 5, output_stride=output_stride, **SMALL).eval()
    size = (64 // output_stride, 96 // output_stride)
    assert [tuple(x.shape[2:]) for x in network.encoder(torch.randn(1, 3, 64, 96))] == [size, size]
    assert network.forward_all(torch.randn(1, 3, 64, 96))[1].shape == (1, 5, *size)


def test_auxiliary_head_sits_on_the_stage_before_the_last():
    network = FCNResNet(3, 5, **SMALL)
    assert network.auxiliary_head[0].convolution.in_channels == 192
    assert network.head[0].convolution.in_channels == 96


def test_both_output_strides_share_their_weights():
    at_8, at_16 = (FCNResNet(3, 5, output_stride=stride, **SMALL) for stride in (8, 16))
    at_16.load_state_dict(at_8.state_dict())
    assert (at_8.stride, at_16.stride) == (8, 16)


def test_without_the_auxiliary_head_there_is_one_output_and_no_weight_of_it():
    network = FCNResNet(3, 5, auxiliary_head=False, **SMALL).eval()
    assert len(network.forward_all(torch.randn(1, 3, 32, 32))) == 1
    assert not [name for name in network.state_dict() if "auxiliary" in name]


def test_classes_are_about_equally_likely_at_the_start():
    torch.manual_seed(0)
    network = FCNResNet(3, 5, **SMALL)
    shares = network(torch.randn(2, 3, 64, 64)).softmax(dim=1)
    assert (shares - 0.2).abs().mean() < 0.05
