import math

import pytest
import torch
import torch.nn.functional as F
from encoders.vgg_weights import HIDDEN, vgg_weights
from torch import nn

from segwright.encoders import vgg
from segwright.networks.deeplabv1 import VARIANTS, DeepLabV1


def on_meta(**arguments):
    with torch.device("meta"):
        return DeepLabV1(3, 21, weights="none", **arguments)


def small(**arguments):
    torch.manual_seed(0)
    return DeepLabV1(3, 21, hidden_channels=16, weights="none", **arguments)


@pytest.mark.parametrize(("side", "cells"), [(321, 41), (320, 41), (33, 5), (8, 2)])
def test_a_crop_of_321_has_41_scores(side, cells):
    assert on_meta().score_map(torch.empty(1, 3, side, side, device="meta")).shape == (1, 21, cells, cells)


def test_strides_and_windows_are_the_published_ones():
    network = on_meta()
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in network.pools] == [
        (3, 2, 1),
        (3, 2, 1),
        (3, 2, 1),
        (3, 1, 1),
        (3, 1, 1),
    ]
    assert isinstance(network.pool5a, nn.AvgPool2d)
    assert (network.pool5a.kernel_size, network.pool5a.stride, network.pool5a.padding) == (3, 1, 1)
    assert [convolution.dilation[0] for convolution in network.encoder.convolutions()] == 10 * [1] + 3 * [2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_fc6_spans_25_cells_and_keeps_the_size(variant):
    fc6 = on_meta(**VARIANTS[variant]).fc6[0]
    assert fc6.dilation[0] * (fc6.kernel_size[0] - 1) + 1 == 25
    assert fc6(torch.empty(1, 512, 5, 7, device="meta")).shape[2:] == (5, 7)


@pytest.mark.parametrize(
    ("variant", "millions"), [("DeepLabV1-LargeFOV", 20.5), ("DeepLabV1-7x7", 134.3), ("DeepLabV1-4x4", 65.1)]
)
def test_all_fields_of_view_have_the_parameters_of_table_2(variant, millions):
    network = on_meta(**VARIANTS[variant])
    assert round(sum(value.numel() for value in network.parameters()) / 1e6, 1) == millions


def test_defaults_are_the_large_field_of_view():
    assert on_meta().fc6[0].weight.shape == on_meta(**VARIANTS["DeepLabV1-LargeFOV"]).fc6[0].weight.shape


def test_the_view_of_the_scores_is_the_published_one():
    """Receptive fields of pool5a and fc6, 243 and 435 pixels at a stride of 8."""
    network = on_meta()
    view, stride = 1, 1
    layers = [
        layer
        for stage, pool in zip(network.encoder.stages, network.pools, strict=True)
        for layer in (*(layer for layer in stage if isinstance(layer, nn.Conv2d)), pool)
    ]
    views = []
    for layer in (*layers, network.pool5a, network.fc6[0]):
        side, step, rate = (
            value[0] if isinstance(value, tuple) else value
            for value in (layer.kernel_size, layer.stride, getattr(layer, "dilation", 1))
        )
        view, stride = view + rate * (side - 1) * stride, stride * step
        views.append(view)
    assert (views[-2], views[-1], stride) == (243, 435, 8)


def test_a_score_is_the_logit_of_its_pixel_and_lines_between_are_straight():
    network = small().eval()
    image = torch.randn(1, 3, 24, 40)
    scores, logits = network.score_map(image), network(image)
    assert scores.shape == (1, 21, 4, 6)
    torch.testing.assert_close(logits[..., ::8, ::8], scores[..., :3, :5])
    torch.testing.assert_close(logits[..., ::8, 4::8], (scores[..., :3, :5] + scores[..., :3, 1:]) / 2)


def test_scores_come_through_all_layers_in_the_published_order():
    network = small().eval()
    x = image = torch.randn(1, 3, 33, 49)
    convolutions = iter(network.encoder.convolutions())
    for count, stride, rate in ((2, 2, 1), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2)):
        for _ in range(count):
            layer = next(convolutions)
            x = F.conv2d(x, layer.weight, layer.bias, padding=rate, dilation=rate).relu()
        x = F.max_pool2d(x, 3, stride, padding=1)
    x = F.avg_pool2d(x, 3, 1, padding=1)
    fc6, fc7, fc8 = network.fc6[0], network.fc7[0], network.fc8
    x = F.conv2d(x, fc6.weight, fc6.bias, padding=12, dilation=12).relu()
    x = F.conv2d(x, fc7.weight, fc7.bias).relu()
    torch.testing.assert_close(network.score_map(image), F.conv2d(x, fc8.weight, fc8.bias))


@pytest.mark.parametrize("part", ["fc6", "fc7"])
def test_half_of_the_values_are_dropped_in_training(part):
    assert getattr(on_meta(), part)[-1].p == 0.5


def test_training_starts_near_the_entropy_of_equal_classes():
    torch.manual_seed(0)
    network = DeepLabV1(3, 21, weights="none")
    loss = F.cross_entropy(network(torch.randn(1, 3, 32, 64)), torch.randint(21, (1, 32, 64)))
    assert loss.item() == pytest.approx(math.log(21), rel=0.02)


def test_the_classifier_of_trained_weights_starts_fc6_and_fc7(monkeypatch):
    weights = vgg_weights()
    monkeypatch.setattr(vgg, "local_weights", {"vgg16": "file"}.get)
    monkeypatch.setattr(vgg, "load_state_dict", {"file": weights}.get)
    network = DeepLabV1(3, 21, hidden_channels=HIDDEN // 4)
    assert torch.equal(network.fc6[0].weight, weights["pre_logits.fc1.weight"][::4, :, ::3, ::3])
    assert torch.equal(network.fc7[0].weight, weights["pre_logits.fc2.weight"][::4, ::4])
    assert torch.equal(network.fc7[0].bias, weights["pre_logits.fc2.bias"][::4])
    assert network.encoder.fully_connected == ()


def test_a_view_of_an_even_number_of_cells_is_refused():
    with pytest.raises(ValueError, match="kernel_size 4 at rate 3 spans 10 cells, but DeepLabV1 needs an odd number"):
        DeepLabV1(3, 21, kernel_size=4, rate=3, weights="none")
