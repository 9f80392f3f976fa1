import math

import pytest
import torch
import torch.nn.functional as F
from encoders.vgg_weights import HIDDEN, vgg_weights
from torch import nn

from segwright.encoders import vgg
from segwright.networks.fcn import FCN, BilinearDeconvolution, Skip

PADDINGS = ("reference", "modern")


def on_meta(**arguments):
    with torch.device("meta"):
        return FCN(3, 21, weights="none", **arguments)


def small(**arguments):
    torch.manual_seed(0)
    return FCN(3, 21, hidden_channels=16, weights="none", **arguments)


@pytest.mark.parametrize("finest", [32, 16, 8])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (224, 224), (375, 500)])
def test_reference_padding_takes_images_of_any_size(finest, size):
    network = on_meta(finest=finest, padding="reference")
    assert network(torch.empty(1, 3, *size, device="meta")).shape == (1, 21, *size)


@pytest.mark.parametrize(
    ("finest", "size", "enlarged"),
    [
        (32, (224, 224), (288, 288)),
        (16, (224, 224), (304, 304)),
        (8, (224, 224), (312, 312)),
        (8, (375, 500), (440, 568)),
    ],
)
def test_reference_padding_has_the_published_sizes_before_the_last_crop(finest, size, enlarged):
    network = on_meta(finest=finest, padding="reference")
    sizes = []
    network.upscore.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[2:])))
    network(torch.empty(1, 3, *size, device="meta"))
    assert sizes == [enlarged]


def test_reference_padding_has_the_published_layers():
    network = on_meta(padding="reference")
    assert [convolution.padding[0] for convolution in network.encoder.convolutions()] == [100] + 12 * [1]
    assert network.fc6[0].padding == (0, 0)
    assert [skip.crop for skip in network.skips] == [5, 9]
    assert [on_meta(padding="reference", finest=finest).crop for finest in (32, 16, 8)] == [19, 27, 31]


@pytest.mark.parametrize("finest", [32, 16, 8])
@pytest.mark.parametrize("padding", PADDINGS)
def test_every_score_lies_on_its_own_pixels(padding, finest):
    """Follows (scale, shift) of the pixel below the center of cell i, scale * i + shift, through all layers."""

    def through(grid, layer):
        (scale, shift), side = grid, layer.weight.shape[-1] if hasattr(layer, "weight") else layer.kernel_size
        padding, stride = (value[0] if isinstance(value, tuple) else value for value in (layer.padding, layer.stride))
        return scale * stride, shift + scale * ((side - 1) / 2 - padding)

    def enlarged(grid, layer):
        scale, shift = grid[0] / layer.factor, grid[1]
        return scale, shift + scale * (layer.padding - (layer.weight.shape[-1] - 1) / 2)

    network = on_meta(padding=padding, finest=finest)
    grid, pooled = (1, 0), []
    for stage, pool in zip(network.encoder.stages, network.pools, strict=True):
        for layer in (*(layer for layer in stage if isinstance(layer, nn.Conv2d)), pool):
            grid = through(grid, layer)
        pooled.append(grid)
    grid = through(through(grid, network.fc6[0]), network.fc7[0])
    for skip, (scale, shift) in zip(network.skips, (pooled[3], pooled[2]), strict=False):
        grid = enlarged(grid, skip.upscore)
        assert grid == (scale, shift + scale * skip.crop)
    scale, shift = enlarged(grid, network.upscore)
    assert (scale, shift + network.crop) == (1, 0)


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_both_paddings_and_all_stages_of_training_share_their_weights(finest):
    coarsest, modern, reference = (
        on_meta(finest=32),
        on_meta(finest=finest),
        on_meta(finest=finest, padding="reference"),
    )
    assert coarsest.state_dict().keys() <= modern.state_dict().keys() == reference.state_dict().keys()
    sides = modern.state_dict().keys() - coarsest.state_dict().keys()
    assert sides == {
        f"skips.{i}.score.{part}" for i in range({32: 0, 16: 1, 8: 2}[finest]) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_training_starts_at_the_entropy_of_equal_classes(finest):
    network = small(finest=finest)
    loss = F.cross_entropy(network(torch.randn(1, 3, 32, 64)), torch.randint(21, (1, 32, 64)))
    assert loss.item() == pytest.approx(math.log(21))


def test_scores_get_gradient_although_they_start_at_zero():
    network = small()
    F.cross_entropy(network(torch.randn(1, 3, 32, 64)), torch.randint(21, (1, 32, 64))).backward()
    for score in (network.score_fr, *(skip.score for skip in network.skips)):
        assert score.weight.grad.abs().max() > 0


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_deconvolution_is_a_dense_one_with_the_published_bilinear_weights(factor):
    side = 2 * factor
    f, center = (side + 1) // 2, factor - 0.5
    tent = [1 - abs(i - center) / f for i in range(side)]
    dense = nn.ConvTranspose2d(3, 3, side, factor, padding=factor // 2, bias=False)
    nn.init.zeros_(dense.weight)
    for channel in range(3):
        dense.weight.data[channel, channel] = torch.tensor(tent)[:, None] * torch.tensor(tent)
    x = torch.randn(2, 3, 3, 4)
    torch.testing.assert_close(BilinearDeconvolution(3, factor, factor // 2)(x), dense(x))


def test_deconvolution_by_two_has_the_published_numbers():
    weight = BilinearDeconvolution(2, 2, 0).weight
    assert weight[1, 0, 0].tolist() == [0.0625, 0.1875, 0.1875, 0.0625]
    assert weight[0].sum() == 4


def test_a_constant_score_stays_constant_in_the_interior():
    enlarged = BilinearDeconvolution(1, 8, 4)(torch.ones(1, 1, 5, 6))
    assert enlarged.shape == (1, 1, 40, 48)
    torch.testing.assert_close(enlarged[..., 4:-4, 4:-4], torch.ones(1, 1, 32, 40))
    assert enlarged[..., 0, 0] < 1


def test_deconvolutions_are_not_trained_nor_saved():
    network = small()
    assert not [name for name in (*dict(network.named_parameters()), *network.state_dict()) if "upscore" in name]


def test_scores_not_features_are_added_and_each_map_before_its_doubling():
    network = small(dropout=0.0).eval()
    for convolution in (network.score_fr, *(skip.score for skip in network.skips)):
        nn.init.normal_(convolution.weight)
        nn.init.normal_(convolution.bias)
    x = image = torch.randn(1, 3, 64, 96)
    maps = []
    for stage in network.encoder.stages:
        x = F.max_pool2d(stage(x), 2)
        maps.append(x)
    score4, score3 = (skip.score for skip in network.skips)
    x = network.score_fr(network.fc7(network.fc6(x)))

    def up(x, factor):  # beyond the border, the deconvolutions see zeros
        padded = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=float(factor), mode="bilinear")
        return padded[..., factor:-factor, factor:-factor]

    expected = up(up(up(x, 2) + score4(maps[3]), 2) + score3(maps[2]), 8)
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-3)


def test_at_once_scales_the_pooled_maps_as_published():
    assert [skip.scale for skip in on_meta(at_once=True).skips] == [0.01, 0.0001]
    assert [skip.scale for skip in on_meta().skips] == [1, 1]
    skip = Skip(4, 2, padding=1, crop=0, scale=0.01)
    nn.init.normal_(skip.score.weight)
    nn.init.normal_(skip.score.bias)
    pooled = torch.randn(1, 4, 6, 8)
    torch.testing.assert_close(skip(torch.zeros(1, 2, 3, 4), pooled), skip.score(pooled * 0.01))


def test_the_classifier_of_trained_weights_starts_fc6_and_fc7(monkeypatch):
    weights = vgg_weights()
    monkeypatch.setattr(vgg, "local_weights", {"vgg16": "file"}.get)
    monkeypatch.setattr(vgg, "load_state_dict", {"file": weights}.get)
    network = FCN(3, 21, hidden_channels=HIDDEN)
    assert torch.equal(network.fc6[0].weight, weights["pre_logits.fc1.weight"])
    assert torch.equal(network.fc7[0].bias, weights["pre_logits.fc2.bias"])
    assert network.encoder.fully_connected == ()


@pytest.mark.parametrize("part", ["fc6", "fc7"])
def test_half_of_the_values_are_dropped_in_training(part):
    assert getattr(on_meta(), part)[-1].p == 0.5
