import pytest
import torch

from segwright.networks.deeplabv3plus import ASPP, PARAMETERS, VARIANTS, DeepLabV3Plus

SMALL = {"encoder": "test_resnet", "weights": "none", "channels": 16}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_the_published_ones(variant):
    with torch.device("meta"):
        network = DeepLabV3Plus(3, 21, weights="none", **VARIANTS[variant])
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[variant]


def test_pyramid_equals_that_of_segmentation_models_pytorch():
    decoder = pytest.importorskip("segmentation_models_pytorch.decoders.deeplabv3.decoder")
    torch.manual_seed(0)
    peer = decoder.ASPP(24, 16, (6, 12, 18), separable=True, dropout=0.5).eval()
    pyramid = ASPP(24, 16, (6, 12, 18), dropout=0.1).eval()
    names = pyramid.state_dict()
    assert [value.shape for value in names.values()] == [value.shape for value in peer.state_dict().values()]
    pyramid.load_state_dict(dict(zip(names, peer.state_dict().values(), strict=True)))
    x = torch.randn(2, 24, 9, 11)
    torch.testing.assert_close(pyramid(x), peer(x))


def test_separable_branch_has_the_published_weights():
    branch = ASPP(2048, 256, (6, 12, 18), 0.1).atrous[0]
    assert sum(value.numel() for value in branch.parameters() if value.ndim == 4) == 542_720


def test_decoder_joins_256_and_48_channels():
    network = DeepLabV3Plus(3, 5, encoder="test_resnet", weights="none")
    assert network.decoder[0][0].in_channels == 304


def test_both_output_strides_share_their_weights():
    at_16, at_8 = (DeepLabV3Plus(3, 5, output_stride=stride, **SMALL).eval() for stride in (16, 8))
    at_8.load_state_dict(at_16.state_dict())
    assert at_8(torch.randn(1, 3, 32, 48)).shape == (1, 5, 32, 48)


@pytest.mark.parametrize(("output_stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_rates_double_at_output_stride_8(output_stride, rates):
    network = DeepLabV3Plus(3, 5, output_stride=output_stride, **SMALL)
    assert [branch[0].dilation[0] for branch in network.aspp.atrous] == rates


@pytest.mark.parametrize("output_stride", [16, 8])
def test_maps_are_at_a_quarter_and_at_the_output_stride(output_stride):
    network = DeepLabV3Plus(3, 5, output_stride=output_stride, **SMALL)
    low, high = network.encoder(torch.randn(1, 3, 64, 96))
    assert low.shape[2:] == (16, 24)
    assert high.shape[2:] == (64 // output_stride, 96 // output_stride)


def test_image_pooling_is_the_same_everywhere():
    pyramid = ASPP(8, 4, (6, 12, 18), 0.0).eval()
    joined = []
    pyramid.project.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    pyramid(torch.randn(1, 8, 5, 6))
    pooled = joined[0][:, -4:]
    assert torch.equal(pooled, pooled[:, :, :1, :1].expand_as(pooled))
