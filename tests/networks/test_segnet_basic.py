import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.networks import segnet_basic
from segwright.networks.segnet_basic import VARIANTS, SegNetBasic


def small(**arguments):
    torch.manual_seed(0)
    return SegNetBasic(3, 5, **{"width": 4} | arguments)


def record_inputs(modules):
    inputs = []
    for module in modules:
        module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    return inputs


def test_logits_equal_those_with_the_unpooling_of_pytorch(monkeypatch):
    network = small().eval()
    image = torch.randn(2, 3, 40, 56)
    logits = network(image)
    monkeypatch.setattr(
        segnet_basic, "unpool", lambda x, indices, size: F.max_unpool2d(x, indices, 2, output_size=size)
    )
    assert torch.equal(network(image), logits)


def test_an_image_of_camvid_keeps_its_size_through_pooling_that_rounds_up():
    network = small().eval()
    inputs = record_inputs(network.decoders)
    pooled = record_inputs(network.encoder_dropouts)
    assert network(torch.randn(1, 3, 360, 480)).shape == (1, 5, 360, 480)
    assert [tuple(x.shape[2:]) for x in pooled] == [(180, 240), (90, 120), (45, 60), (23, 30)]
    assert [tuple(x.shape[2:]) for x in inputs] == [(45, 60), (90, 120), (180, 240), (360, 480)]


def test_the_image_is_divided_by_the_energy_of_its_pixel():
    image = torch.rand(2, 3, 8, 8) * 255
    energy = (image**2).sum(1, keepdim=True)  # three channels fit into the window of five
    expected = image / (1 + 1e-4 / 5 * energy) ** 0.75
    network = small()
    inputs = record_inputs([network.encoders[0]])
    network(image)
    torch.testing.assert_close(inputs[0], expected)


def test_decoders_have_no_relu():
    network = small()
    kinds = {type(module) for decoder in network.decoders for module in decoder}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.Dropout}
    logits = []
    network.decoders[-1].register_forward_hook(lambda *arguments: logits.append(arguments[-1]))
    network(torch.randn(2, 3, 32, 32))
    assert logits[0].min() < 0


def test_convolutions_are_7_wide_and_the_classifier_1():
    convolutions = [module for module in SegNetBasic(3, 11).modules() if isinstance(module, nn.Conv2d)]
    assert [convolution.kernel_size[0] for convolution in convolutions] == [7] * 8 + [1]
    assert sum(convolution.weight.numel() for convolution in convolutions) == 1_415_040


def test_a_cell_of_the_last_pooling_sees_106_columns():
    network = small(width=2).eval()
    for encoder in network.encoders:
        nn.init.constant_(encoder[0].weight, 0.02)
    cells = record_inputs([network.encoder_dropouts[-1]])
    network(torch.zeros(1, 3, 128, 128))
    first, last = 3 * 16 - 45, 3 * 16 + 60  # of the fourth cell
    seen = {}
    for column in (first - 1, first, last, last + 1):
        image = torch.zeros(1, 3, 128, 128)
        image[..., column] = 100.0
        network(image)
        seen[column] = bool((cells[-1] != cells[0])[0, 0, 4, 3])
    assert last - first + 1 == 106
    assert seen == {first - 1: False, first: True, last: True, last + 1: False}


def test_the_bayesian_variant_drops_after_encoders_3_4_and_decoders_4_3():
    network = small(**VARIANTS["Bayesian-SegNet-Basic"]).train()
    inputs = record_inputs(module for module in network.modules() if isinstance(module, nn.Dropout) and module.p == 0.5)
    image = torch.randn(2, 3, 64, 64)
    network(image)
    assert [x.shape[-1] for x in inputs] == [8, 4, 8, 16]
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_all_classes_are_as_likely_at_the_start():
    mask = torch.randint(0, 5, (2, 32, 32))
    assert F.cross_entropy(small(width=16)(torch.randn(2, 3, 32, 32)), mask).item() == pytest.approx(math.log(5), 0.1)
