import pytest
import torch
from torch import nn

from segwright.networks.deeplabv3 import ASPP, VARIANTS, DeepLabV3, convert

SMALL = {"encoder": "resnet18", "weights": "none", "multi_grid": (1, 2), "channels": 16}


def trained(network):
    """The network as after some training: every normalization has seen images, and scales and shifts."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 64, 64))
    return network.eval()


def rates(block):
    return [[m.dilation[0] for m in unit.modules() if getattr(m, "kernel_size", 0) == (3, 3)] for unit in block]


def make(**arguments):
    """On the meta device: for rates and shapes of weights."""
    with torch.device("meta"):
        return DeepLabV3(3, 5, **{"encoder": "resnet50", "weights": "none", **arguments})


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_logits_equal_those_of_torchvision(depth):
    peers = pytest.importorskip("torchvision.models.segmentation")
    make_peer = getattr(peers, f"deeplabv3_resnet{depth}")
    peer = trained(make_peer(weights=None, weights_backbone=None, num_classes=5, aux_loss=True))
    network = DeepLabV3(3, 5, weights="none", **VARIANTS[f"DeepLabV3-ResNet{depth}-torchvision"]).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = peer(image)
        logits, auxiliary = network.forward_all(image)
    torch.testing.assert_close(logits, expected["out"], rtol=1e-4, atol=1e-4)
    enlarged = nn.functional.interpolate(auxiliary, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected["aux"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(("encoder", "multi_grid"), [("resnet18", (1, 1)), ("resnet50", (1, 1, 1))])
def test_logits_equal_those_of_segmentation_models_pytorch(encoder, multi_grid, output_stride):
    smp = pytest.importorskip("segmentation_models_pytorch")
    arguments = VARIANTS["DeepLabV3-ResNet50-smp"] | {"encoder": encoder, "output_stride": output_stride}
    peer_rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
    peer = smp.DeepLabV3(
        encoder, encoder_weights=None, encoder_output_stride=output_stride, decoder_atrous_rates=peer_rates, classes=5
    )
    trained(peer)
    network = DeepLabV3(3, 5, weights="none", **arguments | {"multi_grid": multi_grid}).eval()
    network.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(network(image), peer(image), rtol=1e-4, atol=1e-4)


def test_multi_grid_multiplies_the_rate_of_the_block():
    at_16, at_8 = (make(output_stride=stride).encoder.network for stride in (16, 8))
    assert rates(at_16.layer4) == [[2], [4], [8]]
    assert rates(at_8.layer4) == [[4], [8], [16]]


def test_every_unit_of_a_dilated_block_is_dilated():
    at_16, at_8 = (make(output_stride=stride).encoder.network for stride in (16, 8))
    assert rates(at_16.layer3) == [[1]] * 6
    assert rates(at_8.layer3) == [[2]] * 6
    assert rates(at_8.layer2) == [[1]] * 4


def test_without_multi_grid_the_first_unit_keeps_the_rate_of_the_block_before():
    network = make(output_stride=8, multi_grid=None).encoder.network
    assert rates(network.layer3) == [[1], *[[2]] * 5]
    assert rates(network.layer4) == [[2], [4], [4]]


def test_rates_of_the_cascade_double_from_block_to_block():
    cascade = make(head="cascaded", multi_grid=(1, 2, 1)).context
    assert [rates(block) for block in cascade] == [
        [[4], [8], [4]],
        [[8], [16], [8]],
        [[16], [32], [16]],
    ]


def test_blocks_of_the_cascade_are_replicas_without_a_projection():
    network = make(head="cascaded")
    block4 = [value.shape for value in network.encoder.network.layer4[1].state_dict().values()]
    for block in network.context:
        assert [[value.shape for value in unit.state_dict().values()] for unit in block] == [block4] * 3


@pytest.mark.parametrize("output_stride", [8, 16])
def test_cascade_keeps_the_size_and_starts_as_the_identity(output_stride):
    cascade = DeepLabV3(3, 5, head="cascaded", output_stride=output_stride, **SMALL).eval().context
    x = torch.rand(1, 512, 4, 6)
    torch.testing.assert_close(cascade(x), x)


def test_blocks_of_the_cascade_have_weights_of_their_own():
    network = DeepLabV3(3, 5, head="cascaded", **SMALL)
    blocks = [network.encoder.network.layer4, *network.context]
    firsts = [block[1].conv1.weight for block in blocks]
    assert len({weight.data_ptr() for weight in firsts}) == 4
    assert not torch.equal(firsts[1], firsts[0])
    assert not torch.equal(firsts[2], firsts[1])


@pytest.mark.slow
def test_gradient_reaches_every_parameter_of_the_cascade():
    network = trained(DeepLabV3(3, 5, head="cascaded", **SMALL)).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.slow
def test_cascade_can_be_exported():
    network = trained(DeepLabV3(3, 5, head="cascaded", **SMALL))
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), network(image))


@pytest.mark.parametrize("head", ["parallel", pytest.param("cascaded", marks=pytest.mark.slow)])
def test_both_output_strides_share_their_weights(head):
    at_16, at_8 = (DeepLabV3(3, 5, head=head, output_stride=stride, **SMALL).eval() for stride in (16, 8))
    at_8.load_state_dict(at_16.state_dict())
    assert at_8(torch.randn(1, 3, 24, 40)).shape == (1, 5, 24, 40)
    assert (at_16.stride, at_8.stride) == (16, 8)


@pytest.mark.parametrize(("output_stride", "expected"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_rates_of_the_pyramid_double_at_output_stride_8(output_stride, expected):
    branches = make(output_stride=output_stride).context.atrous
    assert [branch.convolution.dilation[0] for branch in branches] == expected


def test_pyramid_joins_1280_channels():
    assert make().context.project.convolution.in_channels == 1280


def test_pyramid_equals_that_of_torchvision():
    peers = pytest.importorskip("torchvision.models.segmentation.deeplabv3")
    torch.manual_seed(0)
    peer = peers.ASPP(24, [6, 12, 18], 16).eval()
    pyramid = ASPP(24, 16, (6, 12, 18), dropout=0.5).eval()
    pyramid.load_state_dict(dict(zip(pyramid.state_dict(), peer.state_dict().values(), strict=True)))
    x = torch.randn(2, 24, 9, 11)
    torch.testing.assert_close(pyramid(x), peer(x))


def test_image_pooling_is_the_same_everywhere():
    pyramid = ASPP(8, 4, (6, 12, 18), 0.0).eval()
    joined = []
    pyramid.project.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    pyramid(torch.randn(1, 8, 5, 6))
    pooled = joined[0][:, -4:]
    assert torch.equal(pooled, pooled[:, :, :1, :1].expand_as(pooled))


def test_a_rate_as_large_as_the_map_leaves_the_center_tap():
    branch = ASPP(4, 3, (33,), 0.0).atrous[0].convolution
    x = torch.randn(1, 4, 33, 33)
    center = nn.functional.conv2d(x, branch.weight[:, :, 1:2, 1:2])
    torch.testing.assert_close(branch(x), center)


def test_the_auxiliary_head_sits_on_block_3():
    network = DeepLabV3(3, 5, auxiliary_head=True, **SMALL).eval()
    assert network.auxiliary_head[0].convolution.in_channels == 256
    assert network.forward_all(torch.randn(1, 3, 32, 48))[1].shape == (1, 5, 2, 3)


def test_without_the_auxiliary_head_there_is_one_output():
    assert len(DeepLabV3(3, 5, **SMALL).eval().forward_all(torch.randn(1, 3, 32, 32))) == 1


def test_without_multi_grid_any_encoder_that_dilates_is_taken():
    network = DeepLabV3(3, 5, encoder="test_efficientnet", weights="none", multi_grid=None, channels=16).eval()
    assert network(torch.randn(1, 3, 32, 48)).shape == (1, 5, 32, 48)


@pytest.mark.parametrize(
    "arguments", [{"multi_grid": (1, 2, 4)}, {"multi_grid": None, "head": "cascaded"}], ids=["multi-grid", "cascade"]
)
def test_an_encoder_without_units_is_refused(arguments):
    with pytest.raises(ValueError, match=r"encoder 'test_efficientnet' has no residual units .* take a ResNet"):
        DeepLabV3(3, 5, encoder="test_efficientnet", weights="none", **arguments)


def test_a_multi_grid_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="multi_grid has 3 rates, but the encoder's last block has 2 units"):
        DeepLabV3(3, 5, encoder="resnet18", weights="none", multi_grid=(1, 2, 4))


def test_a_cascade_of_a_single_unit_is_refused():
    with pytest.raises(ValueError, match="last block has one unit, but a cascade needs two or more"):
        DeepLabV3(3, 5, encoder="test_resnet", weights="none", head="cascaded", multi_grid=(1,))
