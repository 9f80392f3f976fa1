import pytest
import timm
import torch
from safetensors.torch import save_file

from segwright.encoders import timm as encoders
from segwright.encoders.timm import TimmEncoder, encoder_strides, local_weights


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A machine with weights of test_resnet in its cache; returns their file."""
    file = tmp_path / "model.safetensors"
    torch.manual_seed(7)
    save_file(timm.create_model("test_resnet").state_dict(), file)
    monkeypatch.setattr(
        encoders, "try_to_load_from_cache", lambda repository, name: str(file) if name == file.name else None
    )
    return file


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(encoders, "try_to_load_from_cache", lambda repository, name: None)


def test_features_come_in_the_order_of_the_strides():
    encoder = TimmEncoder("test_resnet", 3, (8, 2, 32), weights="none").eval()
    features = encoder(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape[2:]) for x in features] == [(8, 12), (32, 48), (2, 3)]
    assert tuple(x.shape[1] for x in features) == encoder.channels == (48, 32, 96)


def test_stages_deeper_than_the_wanted_strides_are_not_there():
    encoder = TimmEncoder("test_resnet", 3, (4,), weights="none")
    assert not [name for name in encoder.state_dict() if "layer2" in name]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_channels_and_strides_hold_for_every_kind(name):
    strides = sorted(set(encoder_strides(name)))
    encoder = TimmEncoder(name, 3, strides, weights="none").eval()
    features = encoder(torch.randn(1, 3, 160, 160))
    assert [tuple(x.shape[1:]) for x in features] == [
        (channels, 160 // stride, 160 // stride) for channels, stride in zip(encoder.channels, strides, strict=True)
    ]


@pytest.mark.slow
def test_swin_gives_channels_first_at_any_size():
    name = "swin_tiny_patch4_window7_224"
    encoder = TimmEncoder(name, 3, (4, 8), weights="none").eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [(1, 96, 16, 24), (1, 192, 8, 12)]


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_dilated_features_are_those_of_timm(size):
    encoder = TimmEncoder("test_resnet", 3, (4, 8), output_stride=8, weights="none").eval()
    indices = encoder.network.feature_info.out_indices
    peer = timm.create_model("test_resnet", features_only=True, output_stride=8, out_indices=indices).eval()
    peer.load_state_dict(encoder.network.state_dict())
    image = torch.randn(2, 3, *size)
    assert all(torch.equal(*maps) for maps in zip(encoder(image), peer(image), strict=True))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_the_output_stride_and_the_names(output_stride):
    encoder = TimmEncoder("test_resnet", 3, (4, output_stride), output_stride=output_stride, weights="none").eval()
    plain = TimmEncoder("test_resnet", 3, (4, 32), weights="none")
    assert encoder.channels == plain.channels
    assert encoder(torch.randn(1, 3, 32, 64))[1].shape[2:] == (32 // output_stride, 64 // output_stride)
    encoder.load_state_dict(plain.state_dict())


@pytest.mark.parametrize(("output_stride", "sizes"), [(8, [8, 8, 8]), (16, [4, 8, 4])])
def test_stages_at_one_stride_can_be_told_apart(output_stride, sizes):
    encoder = TimmEncoder("test_resnet", 3, (32, 8, 16), output_stride=output_stride, by_stage=True, weights="none")
    assert encoder.channels == TimmEncoder("test_resnet", 3, (32, 8, 16), weights="none").channels
    features = encoder.eval()(torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in features] == [
        (channels, size, size) for channels, size in zip(encoder.channels, sizes, strict=True)
    ]


def test_stages_are_named_by_their_strides_without_dilation():
    with pytest.raises(ValueError, match=r"'test_resnet' has no stride 64; it has 2, 4, 8, 16 and 32"):
        TimmEncoder("test_resnet", 3, (64,), output_stride=8, by_stage=True, weights="none")


def test_a_missing_stride_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'test_convnext' has no stride 2; it has 4, 8, 16 and 32"):
        TimmEncoder("test_convnext", 3, (2, 4), weights="none")


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"'resnet43' is not known to timm; did you mean .*resnet34"):
        TimmEncoder("resnet43", 3, (4,), weights="none")


def test_an_encoder_that_cannot_dilate_is_refused():
    with pytest.raises(ValueError, match="'vgg11' gives no features in timm; take one that dilates to 8"):
        encoder_strides("vgg11", 8)


def test_without_local_weights_auto_starts_at_random_and_says_so(empty_cache):
    encoder = TimmEncoder("test_resnet", 3, (4,), weights="auto")
    assert encoder.weights_used == "none, random start"


def test_without_local_weights_imagenet_is_refused(empty_cache):
    with pytest.raises(ValueError, match=r"'imagenet' of encoder 'test_resnet' .* download timm/test_resnet.r160_in1k"):
        TimmEncoder("test_resnet", 3, (4,), weights="imagenet")


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_local_weights_are_used_and_named(cached, weights):
    encoder = TimmEncoder("test_resnet", 3, (4, 32), weights=weights)
    torch.manual_seed(7)
    expected = timm.create_model("test_resnet").state_dict()
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, expected[name])
    assert encoder.weights_used == "ImageNet (timm/test_resnet.r160_in1k, local cache)"


def test_local_weights_are_left_alone_when_none_are_wanted(cached):
    encoder = TimmEncoder("test_resnet", 3, (4,), weights="none")
    assert encoder.weights_used == "none, random start"


def test_local_weights_fit_one_channel(cached):
    encoder = TimmEncoder("test_resnet", 1, (4,), weights="imagenet")
    trained = TimmEncoder("test_resnet", 3, (4,), weights="imagenet")
    first = next(name for name, value in encoder.network.state_dict().items() if value.ndim == 4)
    narrow, wide = encoder.network.state_dict()[first], trained.network.state_dict()[first]
    torch.testing.assert_close(narrow, wide.sum(dim=1, keepdim=True))


def test_an_unknown_tag_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'test_resnet.best' names weights .* known are test_resnet.r160_in1k"):
        TimmEncoder("test_resnet.best", 3, (4,), weights="none")


def test_an_encoder_without_weights_on_the_hub_has_no_local_ones():
    name = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).hf_hub_id)
    assert local_weights(name) is None
