import math

import pytest
import torch
import torch.nn.functional as F
from encoders.vgg_weights import HIDDEN, vgg_weights
from torch import nn

from segwright.networks import dilated_context
from segwright.networks.dilated_context import VARIANTS, ContextModule, DilatedContext, FrontEnd

DILATIONS = (1, 1, 2, 4, 8, 16, 1)


def small(**arguments):
    torch.manual_seed(0)
    return DilatedContext(3, 5, **{"width": 2, "hidden_channels": 8, "weights": "none"} | arguments)


def without_mirror(monkeypatch):
    monkeypatch.setattr(dilated_context, "mirror", lambda image, *_: image)


@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("Dilation8", [3, 5, 9, 17, 33, 65, 67]),
        ("Dilation7", [3, 5, 9, 17, 33, 35]),
        ("Dilation10", [3, 5, 9, 17, 33, 65, 129, 257, 259]),
    ],
)
def test_the_receptive_field_doubles_with_the_dilation(variant, fields):
    module = ContextModule(1, VARIANTS[variant].get("dilations", DILATIONS))
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 1, 1, 301)
    x[..., 150] = 1.0
    widths = []
    for layer in module.layers:
        nn.init.zeros_(layer[0].bias)
        x = layer(x)
        widths.append(int((x != 0).sum()))
    assert widths == fields


@pytest.mark.parametrize("is_large", [False, True])
def test_at_the_start_the_context_module_truncates_and_nothing_else(is_large):
    scores = torch.randn(2, 7, 9, 40)
    module = ContextModule(7, DILATIONS, is_large=is_large, noise=0.0)
    torch.testing.assert_close(module(scores), scores.relu())


@pytest.mark.parametrize("is_large", [False, True])
def test_the_noise_around_the_identity_is_small_and_there(is_large):
    torch.manual_seed(0)
    scores = torch.randn(2, 21, 9, 40)
    change = ContextModule(21, DILATIONS, is_large=is_large)(scores) - scores.relu()
    assert 0 < change.std() < 0.05


def test_the_large_module_doubles_its_channels_with_the_dilation():
    module = ContextModule(21, DILATIONS, is_large=True)
    assert [layer[0].out_channels for layer in module.layers] == [42, 42, 84, 168, 336, 672, 672]
    assert module.final.in_channels == 672


def test_the_basic_module_has_about_64_parameters_a_pair_of_classes():
    count = sum(parameter.numel() for parameter in ContextModule(21, DILATIONS).parameters())
    assert count == 64 * 21**2 + 8 * 21


def test_nothing_in_the_front_end_is_padded():
    convolutions = [module for module in small(context="none").modules() if isinstance(module, nn.Conv2d)]
    assert {convolution.padding for convolution in convolutions} == {(0, 0)}
    assert [convolution.dilation[0] for convolution in convolutions] == [1] * 10 + [2] * 3 + [4, 1, 1]


def test_a_score_sees_380_pixels_centered_on_its_cell(monkeypatch):
    without_mirror(monkeypatch)
    front_end = small().front_end.eval()
    for parameter in front_end.parameters():
        if parameter.ndim == 4:
            nn.init.constant_(parameter, 0.05)
    image = torch.zeros(3, 3, 380, 380)
    image[1, :, 0, 0] = image[2, :, 379, 379] = 1e6
    scores = front_end(image)
    assert scores.shape == (3, 5, 1, 1)
    assert (scores[1:] > scores[0]).all()
    assert 8 + 2 * dilated_context.MARGIN == 380


def test_the_border_is_the_mirror_image(monkeypatch):
    front_end = small().front_end.eval()
    image = torch.randn(1, 3, 192, 200)
    scores = front_end(image)
    without_mirror(monkeypatch)
    torch.testing.assert_close(front_end(F.pad(image, (186, 186, 186, 186), mode="reflect")), scores)


def test_every_cell_of_8_pixels_has_a_score():
    assert small().front_end(torch.randn(1, 3, 40, 64)).shape == (1, 5, 5, 8)


def test_the_front_end_alone_gives_its_scores_enlarged():
    network = small(context="none").eval()
    image = torch.randn(1, 3, 16, 24)
    expected = F.interpolate(network.front_end(image), size=(16, 24), mode="bilinear")
    torch.testing.assert_close(network(image), expected)
    assert not [name for name in network.state_dict() if name.startswith("context")]


def test_the_front_end_alone_has_the_weights_that_the_whole_starts_from():
    alone, whole = small(context="none"), small()
    missing, unexpected = whole.load_state_dict(alone.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("context.") for name in missing)


def test_no_class_is_silent_before_the_first_step():
    torch.manual_seed(0)
    network = DilatedContext(3, 12, width=4, hidden_channels=32, weights="none").eval()
    assert (network.front_end(torch.randn(2, 3, 16, 16)).amax(dim=(0, 2, 3)) > 0).all()


def test_all_classes_are_as_likely_at_the_start():
    mask = torch.randint(0, 5, (2, 16, 16))
    network = small(width=4, hidden_channels=32)
    assert F.cross_entropy(network(torch.randn(2, 3, 16, 16)), mask).item() == pytest.approx(math.log(5), 0.1)


@pytest.mark.slow
def test_trained_weights_reach_the_hidden_layers(monkeypatch):
    weights = vgg_weights()
    monkeypatch.setattr("segwright.encoders.vgg.local_weights", lambda _: "a file")
    monkeypatch.setattr("segwright.encoders.vgg.load_state_dict", lambda _: weights)
    front_end = FrontEnd(3, 5, width=64, hidden_channels=HIDDEN, dropout=0.5, weights="imagenet")
    assert torch.equal(front_end.fc6[0].weight, weights["pre_logits.fc1.weight"])
    assert torch.equal(front_end.fc7[0].bias, weights["pre_logits.fc2.bias"])
