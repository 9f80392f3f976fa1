import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.layers.resize import resize
from segwright.networks.segformer import PARAMETERS, VARIANTS, MLPDecoder, SegFormer, convert

WIDTHS = (3, 5, 6, 7)


def spread(network):
    """Leave no bias at zero and no normalization at one, behind which a mistake could hide."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.2, 0.3)
    return network


def make_maps(sizes=((8, 12), (4, 6), (2, 3), (1, 1))):
    return [torch.randn(2, width, *size) for width, size in zip(WIDTHS, sizes, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "channels"), [("mit_b0", 256), ("mit_b1", 256), ("mit_b2", 768)])
def test_logits_equal_those_of_segmentation_models_pytorch(encoder, channels):
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    options = {"encoder_weights": None, "decoder_segmentation_channels": channels}
    peer = spread(peers.Segformer(encoder, classes=21, **options)).eval()
    network = SegFormer(3, 21, encoder=encoder, channels=channels, align_corners=True).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer(image), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "in_channels", "num_classes"), PARAMETERS)
def test_parameters_are_those_of_segmentation_models_pytorch(variant, in_channels, num_classes):
    peers = pytest.importorskip("segmentation_models_pytorch")
    arguments = VARIANTS[variant]
    options = {"encoder_weights": None, "decoder_segmentation_channels": arguments["channels"]}
    peer = peers.Segformer(arguments["encoder"], in_channels=in_channels, classes=num_classes, **options)
    count = sum(parameter.numel() for parameter in peer.parameters())
    assert count == PARAMETERS[variant, in_channels, num_classes]


def test_parameters_round_to_those_in_table_1():
    millions = [round(count / 1e6, 1) for count in PARAMETERS.values()]
    assert millions == [3.8, 13.7, 27.5, 47.3, 64.1, 84.7]


def test_defaults_are_the_smallest_variant():
    with torch.device("meta"):
        networks = [SegFormer(3, 5), SegFormer(3, 5, **VARIANTS["SegFormer-B0"])]
    first, second = ({key: value.shape for key, value in network.state_dict().items()} for network in networks)
    assert first == second


def test_fusing_before_the_enlargement_equals_one_layer_on_the_joined_maps():
    torch.manual_seed(0)
    decoder = spread(MLPDecoder(WIDTHS, 4)).eval()
    maps = make_maps()
    joined = torch.cat([resize(linear(x), (8, 12)) for linear, x in zip(decoder.linear, maps, strict=True)], dim=1)
    weight = torch.cat([fuse.weight for fuse in decoder.fuse], dim=1)
    assert weight.shape == (4, 16, 1, 1)
    torch.testing.assert_close(decoder(maps), decoder.norm(F.conv2d(joined, weight)).relu())


def test_the_linear_layers_of_the_decoder_are_linear_layers_on_the_channels_of_a_pixel():
    torch.manual_seed(0)
    decoder = MLPDecoder(WIDTHS, 4)
    for linear, x in zip(decoder.linear, make_maps(), strict=True):
        expected = F.linear(x.permute(0, 2, 3, 1), linear.weight.flatten(1), linear.bias).permute(0, 3, 1, 2)
        torch.testing.assert_close(linear(x), expected)


def test_the_decoder_looks_at_each_pixel_by_itself():
    torch.manual_seed(0)
    decoder = spread(MLPDecoder(WIDTHS, 4)).eval()
    maps = make_maps(4 * [(1, 12)])
    order = torch.randperm(12)
    torch.testing.assert_close(decoder([x[..., order] for x in maps]), decoder(maps)[..., order])


def test_a_map_of_one_cell_is_spread_over_all():
    torch.manual_seed(0)
    decoder = spread(MLPDecoder(WIDTHS, 4)).eval()
    *fine, coarse = make_maps()
    fused = []
    decoder.norm.register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    decoder([*fine, coarse])
    decoder([*fine, torch.zeros_like(coarse)])
    added = fused[0] - fused[1]
    torch.testing.assert_close(added, added[..., :1, :1].expand_as(added))
    assert added.abs().max() > 0.1


def test_logits_are_enlarged_from_a_quarter_by_the_areas_of_their_cells():
    torch.manual_seed(0)
    network = SegFormer(3, 5, channels=16).eval()
    image = torch.randn(1, 3, 32, 96)
    with torch.no_grad():
        logits = network.head(network.decoder(network.encoder(image)))
        assert logits.shape == (1, 5, 8, 24)
        torch.testing.assert_close(network(image), resize(logits, (32, 96)))


def test_corners_stay_corners_where_that_is_wanted():
    torch.manual_seed(0)
    network = SegFormer(3, 5, channels=16, align_corners=True).eval()
    image = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        logits = network.head(network.decoder(network.encoder(image)))
        torch.testing.assert_close(network(image)[..., ::63, ::31], logits[..., ::15, ::7])


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
def test_other_encoders_have_the_same_decoder(encoder):
    network = SegFormer(3, 5, encoder=encoder, weights="none", channels=16).eval()
    assert [linear.in_channels for linear in network.decoder.linear] == list(network.encoder.channels)
    assert network(torch.randn(1, 3, 32, 64)).shape == (1, 5, 32, 64)


def test_whole_channels_are_dropped_in_training_only():
    torch.manual_seed(0)
    network = SegFormer(3, 5, channels=64, dropout=0.5)
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.dropout.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1.0,))
    image = torch.randn(2, 3, 32, 32)
    network.train()(image)
    network.eval()(image)
    dropped = (seen[0] == 0).all(dim=(2, 3))
    assert torch.equal((seen[0] == 0).any(dim=(2, 3)), dropped)
    assert 0.25 < dropped.float().mean() < 0.75
    assert (seen[1] > 0).all()


def test_all_classes_are_about_as_likely_at_the_start():
    torch.manual_seed(0)
    network = SegFormer(3, 5)
    logits = network(torch.randn(4, 3, 64, 64))
    assert F.cross_entropy(logits, torch.randint(0, 5, (4, 64, 64))).item() == pytest.approx(math.log(5), abs=0.15)
