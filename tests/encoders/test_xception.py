import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from segwright.encoders import xception
from segwright.encoders.xception import AlignedXception, XceptionModule, convert


def spread_statistics(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def on_meta(layers, strides, **arguments):
    with torch.device("meta"):
        return AlignedXception(layers, 3, strides, weights="none", **arguments)


@pytest.fixture
def without_weights(monkeypatch):
    monkeypatch.setattr(xception, "local_weights", lambda name: None)


@pytest.mark.parametrize(("layers", "count"), [(41, 24_920_560), (65, 37_867_312)])
def test_parameters_are_the_published_ones(layers, count):
    assert sum(parameter.numel() for parameter in on_meta(layers, (4, 32)).parameters()) == count


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [None, 16])
@pytest.mark.parametrize("layers", [41, 65, 71])
def test_features_equal_those_of_timm_except_for_their_relu(layers, output_stride):
    torch.manual_seed(0)
    dilated = {} if output_stride is None else {"output_stride": output_stride}
    peer = spread_statistics(timm.create_model(f"xception{layers}", num_classes=0, **dilated)).eval()
    strides = [stride for stride in (2, 4, 8, 16, 32) if stride <= (output_stride or 32)]
    encoder = AlignedXception(layers, 3, strides, output_stride=output_stride, weights="none").eval()
    encoder.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        *taps, last = encoder(image)
        _, peer_features = peer.forward_intermediates(image)
    torch.testing.assert_close(last, peer_features[-1])
    for tap, feature in zip(taps, peer_features, strict=False):
        torch.testing.assert_close(tap.relu(), feature)
        assert tap.min() < 0


@pytest.mark.slow
def test_at_output_stride_8_only_timm_drops_a_shortcut_of_71_layers():
    ours = {name: value.shape for name, value in on_meta(71, (4, 8), output_stride=8).state_dict().items()}
    assert ours == {name: value.shape for name, value in on_meta(71, (4, 16), output_stride=16).state_dict().items()}
    with torch.device("meta"):
        peer = timm.create_model("xception71", num_classes=0, output_stride=8)
    missing = ours.keys() - convert(peer.state_dict()).keys()
    assert {name.rpartition(".")[0] for name in missing} == {"flow.4.shortcut.0", "flow.4.shortcut.1"}


@pytest.mark.parametrize(("layers", "module"), [(41, 1), (65, 1), (71, 2)])
def test_the_feature_at_a_quarter_is_what_the_strided_convolution_gets_before_its_relu(layers, module):
    encoder = on_meta(layers, (4,))
    outputs = {}
    for name, convolution in encoder.named_modules():
        convolution.register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    (low,) = encoder(torch.randn(1, 3, 64, 96, device="meta"))
    assert low is outputs[f"flow.{module}.separable2.1.pointwise_norm"]
    assert low.shape == (1, 256, 16, 24)


@pytest.mark.parametrize(
    "layers", [41, pytest.param(65, marks=pytest.mark.slow), pytest.param(71, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("output_stride", "channels"),
    [
        (None, {2: 128, 4: 256, 8: 728, 16: 1024, 32: 2048}),
        (16, {2: 128, 4: 256, 8: 728, 16: 2048}),
        (8, {2: 128, 4: 256, 8: 2048}),
    ],
)
def test_channels_and_sizes_are_those_of_the_strides(layers, output_stride, channels):
    encoder = on_meta(layers, tuple(channels), output_stride=output_stride)
    assert encoder.channels == tuple(channels.values())
    features = encoder(torch.randn(1, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in features] == [
        (1, width, 64 // stride, 96 // stride) for stride, width in channels.items()
    ]


def test_stages_at_one_stride_can_be_told_apart():
    encoder = on_meta(41, (32, 4, 16), output_stride=8, by_stage=True)
    assert encoder.channels == (2048, 256, 1024)
    features = encoder(torch.randn(1, 3, 64, 96, device="meta"))
    assert [tuple(x.shape) for x in features] == [(1, 2048, 8, 12), (1, 256, 16, 24), (1, 1024, 8, 12)]


def test_modules_deeper_than_the_wanted_strides_are_not_there():
    encoder = on_meta(65, (4, 2))
    assert len(encoder.flow) == 2
    assert not [name for name in encoder.state_dict() if name.startswith(("flow.1.separable3", "flow.1.shortcut"))]
    assert [tuple(x.shape[1:]) for x in encoder(torch.randn(1, 3, 32, 32, device="meta"))] == [
        (256, 8, 8),
        (128, 16, 16),
    ]


@pytest.mark.parametrize(("output_stride", "rates"), [(None, {1}), (16, {1, 2}), (8, {1, 2, 4})])
def test_dilation_keeps_the_weights_and_doubles_after_each_stride_left_out(output_stride, rates):
    encoder = on_meta(41, (output_stride or 32,), output_stride=output_stride)
    found = [module.separable1[1].depthwise.dilation[0] for module in encoder.flow]
    assert set(found) == rates
    assert found == sorted(found)
    assert encoder.state_dict().keys() == on_meta(41, (32,)).state_dict().keys()


@pytest.mark.slow
def test_the_dilated_map_has_the_undilated_one_at_every_other_cell():
    torch.manual_seed(0)
    coarse = spread_statistics(AlignedXception(41, 3, (32,), weights="none")).eval().double()
    fine = AlignedXception(41, 3, (16,), output_stride=16, weights="none").eval().double()
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 64, 128, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine(image)[0][..., ::2, ::2], coarse(image)[0])


def test_the_third_convolution_has_the_stride_and_nothing_pools():
    encoder = on_meta(65, (32,))
    strides = [
        [module.get_submodule(f"separable{n}.1.depthwise").stride[0] for n in (1, 2, 3)] for module in encoder.flow
    ]
    assert strides == [[1, 1, 2]] * 3 + [[1, 1, 1]] * 16 + [[1, 1, 2], [1, 1, 1]]
    assert not [module for module in encoder.modules() if "Pool" in type(module).__name__]


def test_relu_precedes_each_separable_convolution_but_follows_both_halves_in_the_last_module():
    *others, last = on_meta(41, (32,)).flow
    for module in others:
        assert isinstance(module.separable1[0], nn.ReLU)
        assert isinstance(module.separable1[1].depthwise_activation, nn.Identity)
        assert isinstance(module.separable1[1].pointwise_activation, nn.Identity)
    assert isinstance(last.separable1[0], nn.Identity)
    assert isinstance(last.separable1[1].depthwise_activation, nn.ReLU)
    assert isinstance(last.separable1[1].pointwise_activation, nn.ReLU)
    assert last.shortcut is None


def test_a_module_adds_what_came_in_before_its_relu():
    module = XceptionModule(4, (4, 4, 4), "identity").eval()
    nn.init.zeros_(module.separable3[1].pointwise_norm.weight)
    x = torch.randn(1, 4, 5, 6)
    assert torch.equal(module(x)[1], x)


def test_batch_normalization_divides_with_an_epsilon_of_a_thousandth():
    assert {module.eps for module in on_meta(41, (32,)).modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}


def test_a_missing_stride_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'aligned_xception65' has no stride 32; choose from 2, 4, 8, 16"):
        on_meta(65, (4, 32), output_stride=16)


def test_without_local_weights_imagenet_is_refused(without_weights):
    with pytest.raises(ValueError, match=r"'imagenet' of encoder 'aligned_xception65' .* download timm/xception65"):
        AlignedXception(65, 3, (4,), weights="imagenet")


def test_without_local_weights_auto_starts_at_random_and_says_so(without_weights):
    assert AlignedXception(65, 3, (4,), weights="auto").weights_used == "none, random start"


@pytest.mark.slow
@pytest.mark.parametrize("in_channels", [3, 1])
def test_local_weights_are_used_and_named(monkeypatch, tmp_path, in_channels):
    trained = timm.create_model("xception41")
    file = tmp_path / "model.safetensors"
    save_file(trained.state_dict(), file)
    monkeypatch.setattr(xception, "local_weights", lambda name: str(file))
    encoder = AlignedXception(41, in_channels, (4, 16), output_stride=16, weights="auto")
    assert encoder.weights_used == "ImageNet (timm/xception41.tf_in1k, local cache)"
    expected = convert(trained.state_dict())
    if in_channels == 1:
        expected["stem.0.convolution.weight"] = expected["stem.0.convolution.weight"].sum(dim=1, keepdim=True)
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, expected[name])
