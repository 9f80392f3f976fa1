import pytest
import torch

from segwright.encoders import mit
from segwright.encoders.choice import OURS, STRIDES, encoder_strides, make_encoder
from segwright.encoders.timm import TimmEncoder


def test_each_of_ours_has_its_strides():
    assert OURS.keys() == STRIDES.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [(name, stride) for name in OURS for stride in (None, 16, 8) if stride is None or name not in mit.SIZES],
)
def test_ours_give_features_at_the_strides_they_promise(name, output_stride):
    strides = sorted(set(encoder_strides(name, output_stride)))
    assert strides[-1] == (output_stride or STRIDES[name][-1])
    with torch.device("meta"):
        encoder = make_encoder(name, 4, strides, output_stride=output_stride, weights="none")
    features = encoder(torch.randn(2, 4, 64, 96, device="meta"))
    assert encoder.strides == tuple(strides)
    assert encoder.weights_used == "none, random start"
    assert [tuple(x.shape) for x in features] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(encoder.channels, strides, strict=True)
    ]


def test_other_names_are_timms():
    encoder = make_encoder("test_resnet", 3, (8, 2), weights="none")
    assert isinstance(encoder, TimmEncoder)
    assert encoder.channels == (48, 32)
    assert encoder_strides("test_resnet", 16) == (2, 4, 8, 16, 16)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'aligned_xception66' is not known"):
        make_encoder("aligned_xception66", 3, (4,), weights="none")
    with pytest.raises(ValueError, match="'aligned_xception66' is not known"):
        encoder_strides("aligned_xception66")
