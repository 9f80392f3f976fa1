import pytest
import torch
from torch import nn

from segwright.layers.attention import CBAM, SpatialChannelSqueezeExcitation, SqueezeExcitation

GATES = [SqueezeExcitation, CBAM, SpatialChannelSqueezeExcitation]
CHANNELS = 16


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def draw(make, batch=2, height=5, width=7):
    torch.manual_seed(0)
    gate, x = make(CHANNELS), torch.randn(batch, CHANNELS, height, width)
    with torch.no_grad():
        for parameter in gate.parameters():
            nn.init.normal_(parameter, std=0.5)
    return gate, x


def values(gate, x):
    """What each sigmoid of a gate puts out."""
    caught = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: caught.append(output))
        for module in gate.modules()
        if isinstance(module, nn.Sigmoid)
    ]
    gate(x)
    for hook in hooks:
        hook.remove()
    return caught


def zero_last_layers(gate):
    for name, module in gate.named_modules():
        if name.split(".")[-1] in ("excite", "spatial", "pixel"):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@pytest.mark.parametrize(
    ("gate", "published"),
    [
        (SqueezeExcitation(256, 16, bias=False), 8_192),
        (SqueezeExcitation(256, 16), 8_464),
        (CBAM(256, 16), 8_290),
    ],
)
def test_parameters_are_the_published_ones(gate, published):
    assert count(gate) == published


@pytest.mark.parametrize("make", GATES)
def test_gates_are_between_0_and_1_and_one_a_channel_or_one_a_pixel(make):
    gate, x = draw(make)
    caught = values(gate, x)
    shapes = {SqueezeExcitation: [(2, 16, 1, 1)]}.get(make, [(2, 16, 1, 1), (2, 1, 5, 7)])
    assert [tuple(value.shape) for value in caught] == shapes
    assert all(((value > 0) & (value < 1)).all() for value in caught)


@pytest.mark.parametrize(("make", "factor"), list(zip(GATES, [0.5, 0.25, 0.5], strict=True)))
def test_a_zero_last_layer_halves_and_halves_twice_where_two_gates_follow_each_other(make, factor):
    gate, x = draw(make)
    zero_last_layers(gate)
    assert torch.equal(gate(x), factor * x)


@pytest.mark.parametrize("make", GATES)
def test_images_of_a_batch_do_not_see_each_other(make):
    gate, x = draw(make, batch=3)
    torch.testing.assert_close(gate(x), torch.cat([gate(image[None]) for image in x]))


@pytest.mark.parametrize("make", [SqueezeExcitation, SpatialChannelSqueezeExcitation])
def test_moving_the_pixels_moves_the_result(make):
    gate, x = draw(make)
    order = torch.randperm(35)
    moved = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(gate(moved), gate(x).flatten(2)[..., order].reshape(x.shape))


def test_the_channel_gate_of_cbam_does_not_depend_on_where_the_pixels_are_but_the_pixel_gate_does():
    gate, x = draw(CBAM)
    order = torch.randperm(35)
    channels, pixels = values(gate, x)
    moved_channels, moved_pixels = values(gate, x.flatten(2)[..., order].reshape(x.shape))
    torch.testing.assert_close(moved_channels, channels)
    assert not torch.allclose(moved_pixels, pixels.flatten(2)[..., order].reshape(pixels.shape))


def test_cbam_sees_the_maximum_and_not_only_the_average_of_a_channel():
    gate, x = draw(CBAM)
    flat = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    assert not torch.allclose(values(gate, x)[0], values(gate, flat)[0])
    squeeze_excitation, _ = draw(SqueezeExcitation)
    torch.testing.assert_close(values(squeeze_excitation, x), values(squeeze_excitation, flat))


def test_cbam_gates_the_pixels_by_the_average_and_the_maximum_of_the_gated_channels():
    gate, x = draw(CBAM)
    channels, pixels = values(gate, x)
    x = x * channels
    summary = torch.stack([x.mean(dim=1), x.amax(dim=1)], dim=1)
    torch.testing.assert_close(pixels, nn.functional.conv2d(summary, gate.spatial.weight, padding=3).sigmoid())


def test_the_larger_of_the_two_results_counts():
    gate, x = draw(SpatialChannelSqueezeExcitation)
    channels, pixels = values(gate, x)
    assert torch.equal(gate(x), torch.maximum(x * channels, x * pixels))


def test_very_few_channels_still_have_a_hidden_one():
    assert SqueezeExcitation(4, 16).squeeze.out_channels == 1
    assert CBAM(4, 16).squeeze.out_channels == 1
