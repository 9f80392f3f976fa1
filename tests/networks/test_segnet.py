import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.networks import segnet
from segwright.networks.segnet import VARIANTS, SegNet


def small(**arguments):
    torch.manual_seed(0)
    return SegNet(3, 5, **{"width": 4, "weights": "none"} | arguments)


def record_inputs(modules):
    inputs = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    return inputs


def test_logits_equal_those_with_the_unpooling_of_pytorch(monkeypatch):
    network = small().eval()
    image = torch.randn(2, 3, 40, 56)
    logits = network(image)
    monkeypatch.setattr(segnet, "unpool", lambda x, indices, size: F.max_unpool2d(x, indices, 2, output_size=size))
    assert torch.equal(network(image), logits)


def test_an_image_of_camvid_keeps_its_size_through_pooling_that_rounds_up():
    network = small(width=2).eval()
    inputs = record_inputs(network.decoders)
    pooled = record_inputs(network.encoder_dropouts)
    assert network(torch.randn(1, 3, 360, 480)).shape == (1, 5, 360, 480)
    assert [tuple(x.shape[2:]) for x in pooled] == [(180, 240), (90, 120), (45, 60), (23, 30), (12, 15)]
    assert [tuple(x.shape[2:]) for x in inputs] == [(23, 30), (45, 60), (90, 120), (180, 240), (360, 480)]


def test_each_decoder_gets_values_only_where_its_encoder_was_largest():
    network = small().eval()
    maps = []
    for encoder in network.encoder.stages:
        encoder.register_forward_hook(lambda *arguments: maps.append(arguments[-1]))
    inputs = record_inputs(network.decoders)
    network(torch.randn(1, 3, 64, 64))
    for x, features in zip(inputs, reversed(maps), strict=True):
        pooled, indices = F.max_pool2d(features, 2, return_indices=True)
        places = F.max_unpool2d(torch.ones_like(pooled), indices, 2)
        assert not x[places == 0].any()
        assert x[places == 1].any()


def test_the_decoder_mirrors_vgg16_and_learns_no_enlargement():
    with torch.device("meta"):
        network = SegNet(3, 11, weights="none")
    convolutions = [module for module in network.decoders.modules() if isinstance(module, nn.Conv2d)]
    widths = [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64]
    assert [convolution.out_channels for convolution in convolutions] == widths
    assert not [module for module in network.modules() if isinstance(module, nn.ConvTranspose2d | nn.Upsample)]


def test_every_convolution_but_the_head_has_normalization_and_relu():
    network = small()
    for part in (*network.encoder.stages, *network.decoders):
        kinds = [type(module) for module in part if not isinstance(module, nn.Dropout)]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * (len(kinds) // 3)
    assert type(network.head) is nn.Conv2d
    assert network.head.kernel_size == (3, 3)


def test_bayesian_segnet_drops_after_encoders_3_4_5_and_decoders_5_4_3():
    network = small(**VARIANTS["Bayesian-SegNet"]).train()
    inputs = record_inputs(module for module in network.modules() if isinstance(module, nn.Dropout) and module.p == 0.5)
    image = torch.randn(2, 3, 64, 64)
    network(image)
    assert [tuple(x.shape[1:]) for x in inputs] == [
        (16, 8, 8),
        (32, 4, 4),
        (32, 2, 2),
        (32, 4, 4),
        (16, 8, 8),
        (8, 16, 16),
    ]
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_segnet_drops_nothing():
    network = small().train()
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(image), network(image))


def test_all_classes_are_as_likely_at_the_start():
    mask = torch.randint(0, 5, (2, 32, 32))
    assert F.cross_entropy(small(width=16)(torch.randn(2, 3, 32, 32)), mask).item() == pytest.approx(math.log(5), 0.1)
