import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.layers.resize import resize
from segwright.layers.separable import SeparableConvolution
from segwright.networks.deeplabv3plus import ASPP, VARIANTS, DeepLabV3Plus, convert

SMALL = {"encoder": "test_resnet", "weights": "none", "channels": 16}


def spread_statistics(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_logits_equal_those_of_segmentation_models_pytorch(encoder, output_stride):
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    rates = tuple(rate * 16 // output_stride for rate in (12, 24, 36))
    options = {"encoder_output_stride": output_stride, "decoder_atrous_rates": rates}
    peer = spread_statistics(peers.DeepLabV3Plus(encoder, encoder_weights=None, classes=21, **options)).eval()
    arguments = VARIANTS["DeepLabV3Plus-ResNet34-smp"] | {"encoder": encoder}
    network = DeepLabV3Plus(3, 21, **arguments, weights="none", output_stride=output_stride).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer(image), rtol=0, atol=1e-4)


def test_pyramid_equals_that_of_segmentation_models_pytorch():
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.deeplabv3.decoder")
    torch.manual_seed(0)
    peer = spread_statistics(decoder.ASPP(24, 16, (6, 12, 18), separable=True, dropout=0.5)).eval()
    convolution = partial(SeparableConvolution, norm_between=False)
    pyramid = ASPP(24, 16, (6, 12, 18), dropout=0.1, convolution=convolution).eval()
    names = pyramid.state_dict()
    assert [value.shape for value in names.values()] == [value.shape for value in peer.state_dict().values()]
    pyramid.load_state_dict(dict(zip(names, peer.state_dict().values(), strict=True)))
    x = torch.randn(2, 24, 9, 11)
    torch.testing.assert_close(pyramid(x), peer(x))


@pytest.mark.parametrize("follows", ["paper", "smp"])
def test_the_output_stride_can_be_changed_after_training(follows):
    torch.manual_seed(0)
    network = spread_statistics(DeepLabV3Plus(3, 5, follows=follows, **SMALL)).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        at_16 = network(image)
        for output_stride in (8, 16):
            other = DeepLabV3Plus(3, 5, follows=follows, output_stride=output_stride, **SMALL).eval()
            other.load_state_dict(network.state_dict())
            network.set_output_stride(output_stride)
            assert torch.equal(network(image), other(image))
            assert torch.equal(network(image), at_16) == (output_stride == 16)


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["aligned_xception71", "resnet50d", "convnext_atto"])
def test_the_output_stride_can_be_changed_with_other_encoders(encoder):
    arguments = SMALL | {"encoder": encoder}
    network = spread_statistics(DeepLabV3Plus(3, 5, **arguments)).eval()
    other = DeepLabV3Plus(3, 5, output_stride=8, **arguments).eval()
    other.load_state_dict(network.state_dict())
    network.set_output_stride(8)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(network(image), other(image))


def test_changing_the_output_stride_keeps_the_parameters_themselves():
    network = DeepLabV3Plus(3, 5, **SMALL).eval()
    network.encoder.weights_used = "some"
    first = next(network.encoder.parameters()).requires_grad_(False)
    before = dict(network.named_parameters())
    network.set_output_stride(8)
    after = dict(network.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert not first.requires_grad
    assert sum(not parameter.requires_grad for parameter in network.parameters()) == 1
    assert not any(module.training for module in network.modules())
    assert network.encoder.weights_used == "some"


def test_an_output_stride_that_is_neither_8_nor_16_is_refused():
    network = DeepLabV3Plus(3, 5, **SMALL)
    with pytest.raises(ValueError, match="output_stride is 32, but DeepLabV3Plus has 8 or 16"):
        network.set_output_stride(32)
    assert network.aspp.atrous[0].depthwise.dilation == (6, 6)


@pytest.mark.slow
def test_an_encoder_with_other_weights_at_the_output_stride_is_refused():
    # timm's Xception of 71 layers loses a shortcut at output stride 8.
    network = DeepLabV3Plus(3, 5, encoder="xception71", weights="none", channels=16).eval()
    encoder = network.encoder
    with pytest.raises(ValueError, match="encoder 'xception71' has other weights at output stride 8"):
        network.set_output_stride(8)
    assert network.encoder is encoder
    assert network.aspp.atrous[0].depthwise.dilation == (6, 6)


def test_both_output_strides_share_their_weights():
    at_16, at_8 = (DeepLabV3Plus(3, 5, output_stride=stride, **SMALL).eval() for stride in (16, 8))
    at_8.load_state_dict(at_16.state_dict())
    assert at_8(torch.randn(1, 3, 32, 48)).shape == (1, 5, 32, 48)


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_rates_double_at_output_stride_8(output_stride, rates, separable):
    network = DeepLabV3Plus(3, 5, output_stride=output_stride, separable=separable, **SMALL)
    convolutions = [branch.depthwise if separable else branch.convolution for branch in network.aspp.atrous]
    assert [convolution.dilation[0] for convolution in convolutions] == rates
    network.set_output_stride(24 - output_stride)
    assert [convolution.dilation[0] for convolution in convolutions] == [
        rate * output_stride // (24 - output_stride) for rate in rates
    ]


@pytest.mark.parametrize("output_stride", [16, 8])
def test_maps_are_at_a_quarter_and_at_the_output_stride(output_stride):
    network = DeepLabV3Plus(3, 5, output_stride=output_stride, **SMALL)
    low, high = network.encoder(torch.randn(1, 3, 64, 96))
    assert low.shape[2:] == (16, 24)
    assert high.shape[2:] == (64 // output_stride, 96 // output_stride)


def test_pyramid_and_decoder_have_the_published_weights():
    with torch.device("meta"):
        network = DeepLabV3Plus(3, 21, encoder="aligned_xception65", weights="none")
    assert count(network.aspp) == 3_019_776
    assert count(network.low_level) + count(network.decoder) + count(network.head) == 168_325


@pytest.mark.parametrize(("separable", "weights"), [(True, 542_720), (False, 4_718_592)])
def test_branches_of_the_pyramid_have_the_published_weights(separable, weights):
    with torch.device("meta"):
        network = DeepLabV3Plus(3, 21, encoder="resnet50", weights="none", separable=separable)
    branch = network.aspp.atrous[0]
    assert sum(value.numel() for value in branch.parameters() if value.ndim == 4) == weights


def test_decoder_joins_256_and_48_channels():
    network = DeepLabV3Plus(3, 5, encoder="test_resnet", weights="none")
    assert network.decoder[0].depthwise.in_channels == 304
    assert network.low_level.convolution.out_channels == 48


def test_the_paper_refines_twice_after_the_join_and_smp_once_before_it():
    paper, smp = (DeepLabV3Plus(3, 5, follows=follows, **SMALL) for follows in ("paper", "smp"))
    assert len(paper.decoder) == 2
    assert isinstance(paper.before_join, nn.Identity)
    assert len(smp.decoder) == 1
    assert smp.before_join.depthwise.in_channels == 16
    assert count(paper) - count(smp) == 2 * (3 * 96 + 16 + 64)  # normalization after the depthwise convolutions


def test_maps_are_enlarged_by_the_areas_of_their_cells():
    network = DeepLabV3Plus(3, 5, **SMALL).eval()
    image = torch.randn(1, 3, 32, 48)
    low, high = network.encoder(image)
    pyramid = resize(network.aspp(high), low.shape[2:])
    logits = network.head(network.decoder(torch.cat([pyramid, network.low_level(low)], dim=1)))
    torch.testing.assert_close(network(image), resize(logits, (32, 48)))


def test_image_pooling_is_the_same_everywhere():
    pyramid = ASPP(8, 4, (6, 12, 18), 0.0).eval()
    joined = []
    pyramid.project.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    pyramid(torch.randn(1, 8, 5, 6))
    pooled = joined[0][:, -4:]
    assert torch.equal(pooled, pooled[:, :, :1, :1].expand_as(pooled))


def test_all_classes_are_about_as_likely_at_the_start():
    torch.manual_seed(0)
    network = DeepLabV3Plus(3, 5, **SMALL)
    logits = network(torch.randn(4, 3, 64, 64))
    assert F.cross_entropy(logits, torch.randint(0, 5, (4, 64, 64))).item() == pytest.approx(math.log(5), abs=0.1)
