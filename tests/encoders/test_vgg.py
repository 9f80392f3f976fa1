import pytest
import timm
import torch
from encoders.vgg_weights import HIDDEN, vgg_weights
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from segwright.encoders import timm as encoders
from segwright.encoders.vgg import VGG16


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A machine with weights of VGG16, with and without normalization, in its cache."""

    def find(repository, name):
        if name != "model.safetensors":
            return None
        file = tmp_path / f"{repository.rpartition('/')[2]}.safetensors"
        if not file.exists():
            save_file(vgg_weights(repository.removeprefix("timm/").removesuffix(".tv_in1k")), file)
        return str(file)

    monkeypatch.setattr(encoders, "try_to_load_from_cache", find)


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda repository, name: None)


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(1, 3, 32, 64)


def features(encoder, image):
    maps = []
    for stage in encoder.stages:
        image = stage(image)
        maps.append(image)
        image = nn.functional.max_pool2d(image, 2)
    return maps


def randomize(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@pytest.mark.parametrize("norm", [False, True])
def test_features_equal_those_of_torchvision(norm, image):
    torch.manual_seed(0)
    peer = make_layers(cfgs["D"], batch_norm=norm).eval()
    randomize(peer)
    encoder = VGG16(3, norm=norm, weights="none").eval()
    encoder.load(peer.state_dict(prefix="features."))
    torch.testing.assert_close(nn.functional.max_pool2d(features(encoder, image)[-1], 2), peer(image))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_features_of_every_stage_equal_those_of_timm(name, image):
    torch.manual_seed(0)
    peer = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3, 4)).eval()
    randomize(peer)
    encoder = VGG16(3, norm=name == "vgg16_bn", weights="none").eval()
    encoder.load({key.replace("features_", "features."): value for key, value in peer.state_dict().items()})
    for actual, expected in zip(features(encoder, image), peer(image), strict=True):
        torch.testing.assert_close(actual, expected)


def test_the_order_of_the_names_does_not_matter():
    weights = vgg_weights()
    encoder = VGG16(3, weights="none")
    encoder.load(dict(sorted(weights.items())))
    assert torch.equal(encoder.convolutions()[1].weight, weights["features.2.weight"])
    assert torch.equal(encoder.convolutions()[-1].bias, weights["features.28.bias"])


def test_weights_of_another_depth_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        VGG16(3, weights="none").load(make_layers(cfgs["B"]).state_dict(prefix="features."))


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
@pytest.mark.parametrize(("norm", "name"), [(False, "vgg16"), (True, "vgg16_bn")])
def test_local_weights_are_used_and_named(cached, weights, norm, name):
    encoder = VGG16(3, norm=norm, weights=weights)
    expected = [value for value in vgg_weights(name).values() if value.ndim == 4][:13]
    for convolution, value in zip(encoder.convolutions(), expected, strict=True):
        assert torch.equal(convolution.weight, value)
    assert encoder.weights_used == f"ImageNet (timm/{name}.tv_in1k, local cache)"
    assert [tuple(weight.shape) for weight, _ in encoder.fully_connected] == [
        (HIDDEN, 512, 7, 7),
        (HIDDEN, HIDDEN, 1, 1),
    ]


def test_local_weights_are_left_alone_when_none_are_wanted(cached):
    encoder = VGG16(3, weights="none")
    assert encoder.weights_used == "none, random start"
    assert encoder.fully_connected == ()


def test_local_weights_fit_one_channel(cached):
    wide, narrow = (VGG16(channels, weights="imagenet").convolutions() for channels in (3, 1))
    torch.testing.assert_close(narrow[0].weight, wide[0].weight.sum(dim=1, keepdim=True))
    assert torch.equal(narrow[1].weight, wide[1].weight)


def test_local_weights_are_repeated_for_more_channels(cached):
    wide, wider = (VGG16(channels, weights="imagenet").convolutions()[0].weight for channels in (3, 4))
    torch.testing.assert_close(wider, wide[:, [0, 1, 2, 0]] * 3 / 4)


def test_without_local_weights_auto_starts_at_random_and_says_so(empty_cache):
    assert VGG16(3).weights_used == "none, random start"


def test_without_local_weights_imagenet_is_refused(empty_cache):
    with pytest.raises(ValueError, match=r"'imagenet' of vgg16 are not on this machine; download timm/vgg16.tv_in1k"):
        VGG16(3, weights="imagenet")


def test_without_biases_imagenet_is_refused_and_auto_starts_at_random(cached):
    with pytest.raises(ValueError, match=r"'imagenet' of VGG16 need .*bias.*; use weights 'none'"):
        VGG16(3, norm=True, bias=False, weights="imagenet")
    assert VGG16(3, norm=True, bias=False).weights_used == "none, random start"


def test_there_are_thirteen_convolutions_of_the_published_size():
    encoder = VGG16(3, weights="none")
    assert [sum(isinstance(layer, nn.Conv2d) for layer in stage) for stage in encoder.stages] == [2, 2, 3, 3, 3]
    assert sum(value.numel() for value in encoder.parameters()) == 14_714_688


def test_dilation_is_that_of_the_last_stage_and_keeps_the_size():
    with torch.device("meta"):
        encoder = VGG16(3, dilation=2, weights="none")
        x = torch.empty(1, 512, 5, 7)
    assert [convolution.dilation[0] for convolution in encoder.convolutions()] == [1] * 10 + [2] * 3
    assert encoder.stages[-1](x).shape == x.shape


def test_the_first_padding_widens_the_first_map_only():
    with torch.device("meta"):
        encoder = VGG16(3, first_padding=100, weights="none")
        x = encoder.stages[0](torch.empty(1, 3, 33, 47))
    assert x.shape == (1, 64, 231, 245)
    assert encoder.stages[1](torch.empty(1, 64, 9, 9, device="meta")).shape == (1, 128, 9, 9)


def test_the_classifier_of_torchvision_becomes_convolutions():
    torch.manual_seed(0)
    first, second = nn.Linear(512 * 7 * 7, 8), nn.Linear(8, 8)
    names = {"0.weight": first.weight, "0.bias": first.bias, "3.weight": second.weight, "3.bias": second.bias}
    encoder = VGG16(3, weights="none")
    encoder.load(vgg_weights_without_classifier() | {f"classifier.{key}": value for key, value in names.items()})
    x = torch.randn(2, 512, 7, 7)
    y = x
    for weight, bias in encoder.fully_connected:
        y = nn.functional.conv2d(y, weight, bias)
    torch.testing.assert_close(y.flatten(1), second(first(x.flatten(1))))


def vgg_weights_without_classifier():
    return {key: value for key, value in vgg_weights().items() if key.startswith("features.")}


def test_convolutions_of_the_same_size_take_the_classifier_as_it_is():
    encoder = VGG16(3, weights="none")
    weights = vgg_weights()
    encoder.load(weights)
    fc6, fc7 = nn.Conv2d(512, HIDDEN, 7), nn.Conv2d(HIDDEN, HIDDEN, 1)
    encoder.hand_over(fc6, fc7)
    assert torch.equal(fc6.weight, weights["pre_logits.fc1.weight"])
    assert torch.equal(fc7.weight, weights["pre_logits.fc2.weight"])
    assert torch.equal(fc7.bias, weights["pre_logits.fc2.bias"])
    assert encoder.fully_connected == ()


@pytest.mark.parametrize(("side", "taps"), [(3, [0, 3, 6]), (4, [0, 2, 4, 6])])
def test_smaller_convolutions_take_every_fourth_channel_and_evenly_spaced_taps(side, taps):
    encoder = VGG16(3, weights="none")
    weights = vgg_weights()
    encoder.load(weights)
    fc6, fc7 = nn.Conv2d(512, HIDDEN // 4, side), nn.Conv2d(HIDDEN // 4, HIDDEN // 4, 1)
    encoder.hand_over(fc6, fc7)
    assert torch.equal(fc6.weight, weights["pre_logits.fc1.weight"][::4][:, :, taps][..., taps])
    assert torch.equal(fc6.bias, weights["pre_logits.fc1.bias"][::4])
    assert torch.equal(fc7.weight, weights["pre_logits.fc2.weight"][::4, ::4])


def test_without_trained_weights_nothing_is_handed_over():
    convolution = nn.Conv2d(512, 4, 7)
    before = convolution.weight.clone()
    VGG16(3, weights="none").hand_over(convolution)
    assert torch.equal(convolution.weight, before)
