import math

import pytest
import torch
import torch.nn.functional as F
from encoders.vgg_weights import HIDDEN, vgg_weights
from torch import nn

from segwright.encoders import vgg
from segwright.networks.deeplabv2 import VARIANTS, DeepLabV2


def on_meta(**arguments):
    with torch.device("meta"):
        return DeepLabV2(3, 21, weights="none", **arguments)


def small(**arguments):
    """On an encoder of a few layers, with statistics as after training."""
    torch.manual_seed(0)
    network = DeepLabV2(3, 5, **{"encoder": "test_resnet", "weights": "none", **arguments})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def enlarge(scores, size):
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=True)


def msra_resnet(state, image, units):
    """The authors' ResNet at 1/8, written out: strides and dilations by number, weights by timm's names."""

    def step(x, unit, convolution, norm, stride=1, rate=1, *, rectify=True):
        weight = state[f"{unit}{convolution}.weight"]
        side = weight.shape[-1]
        x = F.conv2d(x, weight, stride=stride, padding=rate * (side // 2), dilation=rate)
        values = [state[f"{unit}{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        x = F.batch_norm(x, *values)
        return x.relu() if rectify else x

    x = step(image, "", "conv1", "bn1", 2)
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    for number, stride, rate in ((1, 1, 1), (2, 2, 1), (3, 1, 2), (4, 1, 4)):
        for index in range(units):
            unit = f"layer{number}.{index}."
            first = stride if index == 0 else 1
            path = step(x, unit, "conv1", "bn1", first)
            path = step(path, unit, "conv2", "bn2", rate=rate)
            path = step(path, unit, "conv3", "bn3", rectify=False)
            if index == 0:
                x = step(x, unit, "downsample.0", "downsample.1", first, rectify=False)
            x = (x + path).relu()
    return x


@pytest.mark.slow
@pytest.mark.parametrize("side", [65, 64])
def test_trunk_equals_the_msra_resnet_written_out(side):
    network = small(encoder="resnet26")
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = msra_resnet(network.encoder.network.state_dict(), image, units=2)
        torch.testing.assert_close(network.encoder(image)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["resnet26", "vgg16"])
@pytest.mark.parametrize(("side", "cells"), [(321, 41), (320, 41), (33, 5), (8, 2)])
def test_a_crop_of_321_has_41_scores(encoder, side, cells):
    scores = on_meta(encoder=encoder, scales=(1.0,)).score_maps(torch.empty(1, 3, side, side, device="meta"))
    assert [score.shape for score in scores] == [(1, 21, cells, cells)]


def test_scores_are_the_sum_of_the_branches():
    network = small(scales=(1.0,))
    image = torch.randn(1, 3, 32, 48)
    features = network.encoder(image)[0]
    expected = sum(branch(features) for branch in network.aspp)
    torch.testing.assert_close(network.score_maps(image)[0], expected)


def test_a_branch_alone_gives_the_scores_when_the_others_are_zero():
    network = small(scales=(1.0,))
    image = torch.randn(1, 3, 32, 48)
    for branch in network.aspp[1:]:
        nn.init.zeros_(branch.weight)
    torch.testing.assert_close(network.score_maps(image)[0], network.aspp[0](network.encoder(image)[0]))


def test_pyramid_has_a_bias_and_no_normalization_and_the_published_size():
    aspp = on_meta().aspp
    assert [(branch.dilation[0], branch.padding[0]) for branch in aspp] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    assert sum(value.numel() for value in aspp.parameters()) == 1_548_372
    assert all(type(branch) is nn.Conv2d and branch.bias is not None for branch in aspp)


def test_branches_on_vgg_have_two_hidden_layers():
    aspp = on_meta(**VARIANTS["DeepLabV2-VGG16-ASPP-S"]).aspp
    assert [branch.fc6.dilation[0] for branch in aspp] == [2, 4, 8, 12]
    assert [tuple(value.shape) for name, value in aspp[0].named_parameters() if "weight" in name] == [
        (1024, 512, 3, 3),
        (1024, 1024, 1, 1),
        (21, 1024, 1, 1),
    ]
    assert sum(isinstance(module, nn.ReLU | nn.Dropout) for module in aspp[0]) == 4


def test_pools_of_vgg_have_windows_of_3_and_stride_1_at_the_end():
    encoder = on_meta(encoder="vgg16").encoder
    assert [(pool.kernel_size, pool.stride) for pool in encoder.pools] == [(3, 2), (3, 2), (3, 2), (3, 1), (3, 1)]
    assert [convolution.dilation[0] for convolution in encoder.vgg.convolutions()] == 10 * [1] + 3 * [2]


def test_logits_are_the_greatest_of_all_scales():
    network = small()
    image = torch.randn(1, 3, 64, 96)
    logits, *scores = network.forward_all(image)
    assert [tuple(score.shape[2:]) for score in scores] == [(9, 13), (7, 10), (5, 7)]
    at_cells = torch.stack([enlarge(score, (9, 13)) for score in scores])
    assert len({int(scale) for scale in at_cells.argmax(dim=0).unique()}) == 3
    torch.testing.assert_close(logits[..., ::8, ::8], at_cells.amax(dim=0)[..., :8, :12])
    for score in at_cells:
        assert (logits[..., ::8, ::8] >= score[..., :8, :12] - 1e-6).all()


def test_the_image_itself_is_scored_as_without_other_scales():
    several, one = small(), small(scales=(1.0,))
    one.load_state_dict(several.state_dict())
    image = torch.randn(1, 3, 32, 48)
    torch.testing.assert_close(several.forward_all(image)[1], one.score_maps(image)[0])


def test_a_single_scale_has_a_single_output():
    network = small(scales=(1.0,))
    image = torch.randn(1, 3, 32, 48)
    outputs = network.forward_all(image)
    assert len(outputs) == 1
    assert torch.equal(outputs[0], network(image))


def test_a_score_is_the_logit_of_its_pixel():
    network = small(scales=(1.0,))
    image = torch.randn(1, 3, 24, 40)
    torch.testing.assert_close(network(image)[..., ::8, ::8], network.score_maps(image)[0][..., :3, :5])


def test_the_score_of_a_pixel_sees_the_image_around_it():
    """With symmetric kernels, a mirrored image has mirrored scores where the sides are 8n + 1."""
    network = small(encoder="resnet26", scales=(1.0,)).double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data += module.weight.data.flip(-1)
    image = torch.randn(1, 3, 17, 33, dtype=torch.double)
    torch.testing.assert_close(network.score_maps(image.flip(-1))[0], network.score_maps(image)[0].flip(-1))


@pytest.mark.parametrize("cells", [1, 3])
def test_all_scales_give_logits_at_the_size_of_the_image(cells):
    network = small()
    image = torch.randn(1, 3, 8, 8 * cells)
    logits, *scores = network.forward_all(image)
    assert logits.shape == (1, 5, 8, 8 * cells)
    assert len(scores) == 3
    assert torch.equal(network(image), logits)


def test_gradient_reaches_every_parameter_through_all_scales():
    network = small().train()
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.slow
def test_all_scales_can_be_exported():
    network = small()
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), network(image))


def test_training_starts_near_the_entropy_of_equal_classes():
    torch.manual_seed(0)
    network = DeepLabV2(3, 21, encoder="resnet26", weights="none")
    loss = F.cross_entropy(network(torch.randn(2, 3, 64, 64)), torch.randint(21, (2, 64, 64)))
    assert loss.item() == pytest.approx(math.log(21), rel=0.1)


def test_the_classifier_of_trained_weights_starts_every_branch(monkeypatch):
    weights = vgg_weights()
    monkeypatch.setattr(vgg, "local_weights", {"vgg16": "file"}.get)
    monkeypatch.setattr(vgg, "load_state_dict", {"file": weights}.get)
    network = DeepLabV2(3, 21, encoder="vgg16", hidden_channels=HIDDEN // 4)
    for branch in network.aspp:
        assert torch.equal(branch.fc6.weight, weights["pre_logits.fc1.weight"][::4, :, ::3, ::3])
        assert torch.equal(branch.fc7.bias, weights["pre_logits.fc2.bias"][::4])
    assert network.encoder.vgg.fully_connected == ()
    assert network.encoder.weights_used.startswith("ImageNet")


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_scales_that_are_none_are_refused(scales):
    with pytest.raises(ValueError, match="DeepLabV2 needs one or more above 0"):
        on_meta(scales=scales)


def test_other_encoders_are_refused():
    with pytest.raises(ValueError, match="encoder 'test_efficientnet' is neither 'vgg16' nor a ResNet"):
        DeepLabV2(3, 5, encoder="test_efficientnet", weights="none")
