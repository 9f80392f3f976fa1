import math

import pytest
import torch
from torch import nn

from segwright.layers.mirror import mirror
from segwright.networks.unet_original import UNet, crop


def tiny(depth=2, **arguments):
    torch.manual_seed(0)
    network = UNet(1, 3, width=4, depth=depth, **arguments).double().eval()
    nn.init.normal_(network.head.weight)
    return network


def noise(height, width):
    return torch.randn(1, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_572_pixels_give_388():
    with torch.device("meta"):
        assert UNet(1, 2).forward_valid(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)


def test_the_smallest_image_gives_four_pixels():
    with torch.device("meta"):
        assert UNet(1, 2).forward_valid(torch.empty(1, 1, 188, 204)).shape == (1, 2, 4, 20)


def test_sides_that_do_not_halve_evenly_are_refused_with_the_size_to_use():
    network = UNet(1, 2, width=1)
    with pytest.raises(ValueError, match=r"570 x 100, .* sides of 188 plus a multiple of 16; use 572 x 188"):
        network.forward_valid(torch.zeros(1, 1, 570, 100))


@pytest.mark.parametrize(("depth", "smallest", "step"), [(1, 18, 2), (2, 44, 4), (3, 92, 8), (5, 380, 32)])
def test_sizes_follow_the_depth(depth, smallest, step):
    with torch.device("meta"):
        network = UNet(1, 2, width=1, depth=depth)
        for side in (smallest, smallest + step):
            logits = network.forward_valid(torch.empty(1, 1, side, side))
            assert logits.shape[2:] == (side - 2 * network.margin,) * 2
        with pytest.raises(ValueError, match=f"use {smallest} x {smallest}"):
            network.forward_valid(torch.empty(1, 1, smallest - step, smallest - 1))


def test_the_margin_is_92():
    assert UNet(1, 2, width=1).margin == 92
    assert UNet(1, 2, width=1, padding="same").margin == 0


def test_copies_are_cropped_to_their_centers():
    sizes = []
    with torch.device("meta"):
        network = UNet(1, 2, width=1)
        for step in network.expansive:
            step.register_forward_pre_hook(lambda _, inputs: sizes.append((inputs[1].shape[-1], inputs[0].shape[-1])))
        network.forward_valid(torch.empty(1, 1, 572, 572))
    assert [(copy, 2 * below, (copy - 2 * below) // 2) for copy, below in sizes] == [
        (64, 56, 4),
        (136, 104, 16),
        (280, 200, 40),
        (568, 392, 88),
    ]
    rows = torch.arange(64.0)[None, None, :, None].expand(1, 1, 64, 64)
    assert crop(rows, 56, 56)[0, 0, :, 0].tolist() == list(range(4, 60))


def test_the_copy_comes_before_what_comes_from_below():
    seen = []
    network = tiny()
    step = network.expansive[-1]
    step.convolutions.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    copy = noise(10, 10).expand(1, 4, 10, 10)
    step(noise(4, 4).expand(1, 8, 4, 4), copy)
    assert torch.equal(seen[0][:, :4], crop(copy, 8, 8))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_logits_of_an_image_are_those_of_its_mirrored_surroundings(depth):
    network = tiny(depth)
    image = noise(3 * network.stride, 2 * network.stride)
    spare = 4 % network.stride // 2
    border = network.margin + spare
    valid = network.forward_valid(mirror(image, border, border, border, border))
    assert valid.shape[-2:] == (image.shape[-2] + 2 * spare, image.shape[-1] + 2 * spare)
    assert torch.equal(network(image), crop(valid, *image.shape[-2:]))


@pytest.mark.parametrize(("depth", "start", "side"), [(2, 0, 48), (3, 2, 100), (4, 2, 204)])
def test_logits_away_from_the_border_lie_on_the_pixels_of_the_real_image(depth, start, side):
    network = tiny(depth)
    length = -(-(start + side) // network.stride) * network.stride
    image = noise(length, length)
    tile = image[..., start : start + side, start : start + side]  # with the pooling grid where forward has it
    inside = slice(start + network.margin, start + side - network.margin)
    with torch.no_grad():
        torch.testing.assert_close(network(image)[..., inside, inside], network.forward_valid(tile), rtol=0, atol=1e-12)


def test_tiles_at_multiples_of_16_equal_the_full_run():
    network = tiny(depth=4)
    image = noise(188, 188 + 32)
    with torch.no_grad():
        full = network.forward_valid(image)
        for offset in (0, 16, 32):
            tile = network.forward_valid(image[..., offset : offset + 188])
            torch.testing.assert_close(tile, full[..., offset : offset + 4], rtol=0, atol=1e-12)
        shifted = network.forward_valid(image[..., 12 : 12 + 188])
        assert (shifted - full[..., 12 : 12 + 4]).abs().max() > 1e-6


def test_tiles_of_forward_agree_where_no_mirror_reaches():
    network = tiny(depth=2)
    image = noise(16, 96)
    reach = network.margin + network.stride
    with torch.no_grad():
        full, tile = network(image), network(image[..., 8:])
    torch.testing.assert_close(tile[..., reach:], full[..., 8 + reach :], rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3])
def test_flipped_kernels_give_the_flipped_logits_of_the_flipped_image(depth):
    network = tiny(depth)
    image = noise(2 * network.stride, 3 * network.stride)
    with torch.no_grad():
        expected = network(image).flip(-1)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight.copy_(module.weight.flip(-1))
        torch.testing.assert_close(network(image.flip(-1)), expected, rtol=0, atol=1e-12)


def test_padded_convolutions_keep_the_size_and_have_no_bare_form():
    network = tiny(padding="same")
    assert network._logits(noise(8, 12)).shape[2:] == (8, 12)
    with pytest.raises(ValueError, match="padding 'same', but needs 'valid'; use forward"):
        network.forward_valid(noise(44, 44))


def test_both_paddings_share_their_weights():
    valid, same = tiny(), tiny(padding="same")
    same.load_state_dict(valid.state_dict())
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in valid.state_dict().items())


def test_the_paper_has_no_normalization():
    assert not [module for module in UNet(1, 2, width=1).modules() if isinstance(module, nn.BatchNorm2d)]


def test_dropout_ends_the_contracting_path():
    assert [dropout.p for dropout in UNet(1, 2, width=1).dropouts] == [0, 0, 0, 0.5, 0.5]


def test_weights_start_with_two_by_the_incoming_values():
    torch.manual_seed(0)
    network = UNet(1, 2, depth=1)
    second = network.contracting[0][2]  # 64 channels times 9 taps, the example of the paper
    assert second.weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert network.expansive[0].up.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)


def test_23_layers_have_weights():
    layers = (nn.Conv2d, nn.ConvTranspose2d)
    assert sum(isinstance(module, layers) for module in UNet(1, 2, width=1).modules()) == 23


def test_a_depth_of_zero_is_refused():
    with pytest.raises(ValueError, match="depth is 0, but UNet needs a depth of 1 or more"):
        UNet(1, 2, depth=0)


@pytest.mark.parametrize("norm", [False, True])
def test_training_starts_with_classes_about_as_likely(norm):
    torch.manual_seed(0)
    network = UNet(3, 21, width=16, norm=norm).train()
    logits = network(torch.randn(2, 3, 32, 32))
    loss = nn.functional.cross_entropy(logits, torch.randint(0, 21, (2, 32, 32)))
    assert loss.item() == pytest.approx(math.log(21), abs=0.3)
