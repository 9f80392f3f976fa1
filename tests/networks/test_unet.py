import pytest
import torch

from segwright.networks.unet import PARAMETERS, VARIANTS, UNet, UpBlock, convert


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_the_published_ones(variant):
    network = UNet(3, 21, weights="none", **VARIANTS[variant])
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[variant]


@pytest.mark.slow
def test_logits_equal_those_of_segmentation_models_pytorch():
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = peers.Unet("resnet18", encoder_weights=None, classes=21).eval()
    network = UNet(3, 21, encoder="resnet18", weights="none").eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer(image), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_encoder_without_stride_2_has_no_skip_there():
    network = UNet(3, 5, encoder="test_convnext", weights="none").eval()
    assert network.encoder.strides == (32, 16, 8, 4)
    assert network(torch.randn(1, 3, 64, 32)).shape == (1, 5, 64, 32)


def test_an_up_block_joins_what_comes_from_below_before_the_copy():
    block = UpBlock(2, 3, 4)
    assert block.conv1.convolution.in_channels == 5
    with torch.no_grad():
        block.conv1.convolution.weight[:, 2:] = 0
    block.eval()
    below = torch.randn(1, 2, 4, 4)
    assert torch.equal(block(below, torch.randn(1, 3, 8, 8)), block(below, torch.zeros(1, 3, 8, 8)))


def test_a_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="decoder_channels has 4 widths, but UNet needs 5"):
        UNet(3, 5, encoder="test_resnet", weights="none", decoder_channels=(8, 8, 8, 8))
