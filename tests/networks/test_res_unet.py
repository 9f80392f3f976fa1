import pytest
import torch
from torch import nn

from segwright.networks.res_unet import ResidualBlock, ResUNet, UpStep

SMALL = {"widths": (8, 8, 16, 16, 16)}


def test_a_block_of_one_width_whose_last_norm_is_zero_is_relu():
    block = ResidualBlock(8, 8)
    nn.init.zeros_(block.path[-1].weight)
    x = torch.randn(2, 8, 6, 7)
    assert torch.equal(block(x), x.relu())


def test_a_shortcut_is_a_1x1_convolution_with_bias_and_without_norm_where_the_widths_differ():
    assert isinstance(ResidualBlock(8, 8).shortcut, nn.Identity)
    shortcut = ResidualBlock(8, 16).shortcut
    assert isinstance(shortcut, nn.Conv2d)
    assert shortcut.kernel_size == (1, 1)
    assert shortcut.bias is not None


def test_the_encoder_halves_the_size_four_times():
    maps = ResUNet(3, 2, **SMALL).encoder(torch.randn(2, 3, 32, 48))
    assert [tuple(x.shape[1:]) for x in maps] == [(8, 32, 48), (8, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)]


def test_with_zero_skips_the_encoder_is_felt_through_the_bottleneck_only():
    network = ResUNet(3, 2, **SMALL).eval()
    for step in network.decoder:
        nn.init.zeros_(step.skip.weight)
        nn.init.zeros_(step.skip.bias)
    image = torch.randn(1, 3, 32, 48)
    *skips, x = network.encoder(image)
    for step in network.decoder:
        x = step(x, torch.randn_like(skips.pop()))
    assert torch.equal(network.head(x), network(image))


def test_with_its_skips_the_encoder_is_felt_at_every_level():
    network = ResUNet(3, 2, **SMALL).eval()
    *skips, x = network.encoder(torch.randn(1, 3, 32, 48))
    for step in network.decoder:
        skip = skips.pop()
        assert not torch.allclose(step(x, skip), step(x, torch.zeros_like(skip)))
        x = step(x, skip)


def test_the_skip_is_added_without_a_relu_before_the_sum():
    step = UpStep(16, 8, 1, "none").eval()
    below, skip = torch.randn(1, 16, 3, 4), torch.randn(1, 8, 6, 8)
    expected = step.blocks(step.up(below) + step.skip(skip))
    assert torch.equal(step(below, skip), expected)
    nn.init.zeros_(step.blocks[0].path[-1].weight)  # the block is ReLU
    assert torch.equal(step(below, skip), (step.up(below) + step.skip(skip)).relu())


def test_the_sum_starts_with_the_variance_of_one_of_its_ways():
    torch.manual_seed(0)
    step = UpStep(64, 32, 1, "none")
    added = []
    step.blocks.register_forward_pre_hook(lambda _, inputs: added.append(inputs[0].var().item()))
    step(torch.randn(2, 64, 8, 8), torch.randn(2, 32, 16, 16))
    assert added == pytest.approx([1], rel=0.2)


def test_a_gate_with_zero_weights_halves_the_skip():
    step = UpStep(16, 8, 1, "se").eval()
    for parameter in step.gate.parameters():
        nn.init.zeros_(parameter)
    below, skip = torch.randn(1, 16, 3, 4), torch.randn(1, 8, 6, 8)
    assert torch.equal(step(below, skip), step.blocks(step.up(below) + 0.5 * step.skip(skip)))


def test_every_skip_has_a_gate_of_its_own():
    network = ResUNet(3, 2, skip_attention="se")
    assert [step.gate.squeeze.out_channels for step in network.decoder] == [16, 8, 4, 2]


def test_it_has_less_than_half_of_the_parameters_of_unet():
    unet = 31_030_658
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ResUNet(1, 2).parameters())
    assert count / unet == pytest.approx(1 - 0.56, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["mobilenetv3_small_100", "test_efficientnet"])
def test_a_light_encoder_takes_the_place_of_the_residual_one(encoder):
    network = ResUNet(4, 5, encoder=encoder, weights="none")
    for size in ((32, 32), (64, 96)):
        assert network.eval()(torch.randn(1, 4, *size)).shape == (1, 5, *size)
    with pytest.raises(ValueError, match=r"image is 48 x 64, .* multiples of 32; pad to 64 x 64"):
        network(torch.randn(1, 4, 48, 64))
    network.train()(torch.randn(4, 4, 64, 96)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.slow
def test_the_light_form_exports():
    network = ResUNet(3, 5, encoder="test_efficientnet", weights="none").eval()
    image = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        program = torch.export.export(network, (image,))
        torch.testing.assert_close(program.module()(image), network(image))


def test_an_encoder_without_stride_2_is_refused():
    with pytest.raises(ValueError, match="encoder 'test_convnext' has no stride 2"):
        ResUNet(3, 5, encoder="test_convnext", weights="none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (8, 8)}, "widths has 2 numbers, but ResUNet needs 5"),
        ({"decoder_blocks": 0}, "decoder_blocks is 0, but ResUNet needs at least 1"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResUNet(3, 2, **arguments)
