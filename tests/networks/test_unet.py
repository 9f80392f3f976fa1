import pytest
import torch

from segwright.networks.unet import UNet, UpBlock, convert


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


def with_attention(kind):
    torch.manual_seed(0)
    return UNet(3, 5, encoder="test_resnet", weights="none", skip_attention=kind)


def test_without_attention_no_weight_of_it_is_there():
    assert not [name for name in with_attention("none").state_dict() if "attention" in name]


@pytest.mark.parametrize("kind", ["se", "cbam", "scse"])
def test_attention_does_not_change_the_names_of_the_rest_and_every_weight_learns(kind):
    network = with_attention(kind)
    rest = [name for name in network.state_dict() if not name.startswith("skip_attention.")]
    assert rest == list(with_attention("none").state_dict())
    for name, parameter in network.skip_attention.named_parameters():
        if "squeeze" in name:
            torch.nn.init.uniform_(parameter, 0, 0.1)  # no hidden ReLU is shut
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.skip_attention.parameters())


@pytest.mark.parametrize(("kind", "factor"), [("se", 0.5), ("cbam", 0.25), ("scse", 0.5)])
def test_each_skip_is_gated_before_the_join(kind, factor):
    network = with_attention(kind).eval()
    for parameter in network.skip_attention.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.randn(1, 3, 64, 32)
    x, *skips = network.encoder(image)
    for number, block in enumerate(network.decoder):
        x = block(x, factor * skips[number] if number < len(skips) else None)
    assert torch.equal(network(image), network.head(x))


def test_a_decoder_with_dynamic_kernels_compiles_exports_and_trains_its_routing():
    network = UNet(
        3, 5, encoder="test_resnet", weights="none", decoder_channels=(8, 8, 8, 8, 8), dynamic_kernels=3
    ).train()
    image = torch.randn(2, 3, 64, 32)
    network(image).sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    network.eval()
    program = torch.export.export(network, (image,))
    torch.testing.assert_close(program.module()(image), network(image))


def test_one_kernel_leaves_the_decoder_as_it_is():
    plain, one = (UNet(3, 5, encoder="test_resnet", weights="none", **extra) for extra in ({}, {"dynamic_kernels": 1}))
    assert plain.state_dict().keys() == one.state_dict().keys()
