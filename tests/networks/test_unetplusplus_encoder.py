import pytest
import torch
from torch import nn

from segwright.networks.unetplusplus_encoder import UNetPlusPlus, convert


def tiny():
    torch.manual_seed(0)
    return UNetPlusPlus(3, 5, encoder="test_resnet", weights="none", decoder_channels=(16, 12, 10, 8, 6)).eval()


@pytest.mark.slow
def test_logits_equal_those_of_segmentation_models_pytorch():
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = peers.UnetPlusPlus("resnet18", encoder_weights=None, classes=21).eval()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    network = UNetPlusPlus(3, 21, encoder="resnet18", weights="none").eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = peer(image)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-4)


def test_ten_nodes_lie_between_encoder_and_full_size():
    assert set(tiny().nodes) == {f"{i}_{j}" for i in range(4) for j in range(1, 5 - i)}


def test_a_node_joins_what_comes_from_below_and_then_the_later_nodes_of_its_skip():
    network = tiny()
    seen = {}
    for name, node in network.nodes.items():
        node.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
    joined = []
    network.nodes["1_3"].conv1.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    image = torch.randn(1, 3, 32, 64)
    network(image)
    first = network.encoder(image)[1]
    up = nn.functional.interpolate(seen["2_2"], scale_factor=2.0)
    assert torch.equal(joined[0], torch.cat([up, seen["1_2"], seen["1_1"], first], dim=1))


def test_only_the_last_nodes_of_the_skips_have_the_widths_of_the_decoder():
    network = tiny()
    widths = {name: node.conv2.norm.num_features for name, node in network.nodes.items()}
    assert [widths[f"{i}_{4 - i}"] for i in (3, 2, 1, 0)] == [16, 12, 10, 8]
    assert all(widths[f"{i}_{j}"] == network.encoder.channels[i] for i in range(4) for j in range(1, 4 - i))


def test_a_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="decoder_channels has 4 widths, but UNetPlusPlus needs 5; give one for each"):
        UNetPlusPlus(3, 5, encoder="test_resnet", weights="none", decoder_channels=(8, 8, 8, 8))


def test_an_encoder_without_stride_2_is_refused():
    with pytest.raises(ValueError, match="has no stride 2"):
        UNetPlusPlus(3, 5, encoder="test_convnext", weights="none")
