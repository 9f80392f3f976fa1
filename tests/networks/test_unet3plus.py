import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.networks.unet3plus import UNet3Plus, presence_loss


def tiny(num_classes=3, organ=None, **arguments):
    torch.manual_seed(0)
    network = UNet3Plus(1, num_classes, width=4, **arguments).eval()
    for head in network.heads:
        nn.init.normal_(head.weight)
    if organ is not None:
        nn.init.zeros_(network.guidance.convolution.weight)
        network.guidance.convolution.bias.data = torch.tensor([-5.0, 5.0] if organ else [5.0, -5.0])
    return network


def noise(height=32, width=48):
    return torch.randn(2, 1, height, width, generator=torch.Generator().manual_seed(1))


def test_four_stages_have_five_branches_of_64_channels_each():
    with torch.device("meta"):
        network = UNet3Plus(3, 1)
    shapes = [[tuple(branch[0].weight.shape[:2]) for branch in stage.branches] for stage in network.decoder]
    assert shapes == [
        [(64, 64), (64, 128), (64, 256), (64, 512), (64, 1024)],
        [(64, 64), (64, 128), (64, 256), (64, 320), (64, 1024)],
        [(64, 64), (64, 128), (64, 320), (64, 320), (64, 1024)],
        [(64, 64), (64, 320), (64, 320), (64, 320), (64, 1024)],
    ]
    assert [tuple(stage.fusion[0].weight.shape[:2]) for stage in network.decoder] == [(320, 320)] * 4


def test_the_third_stage_joins_what_figure_2_shows():
    network = tiny()
    maps, branched = {}, []
    for level, stage in enumerate(network.encoder):
        stage.register_forward_hook(lambda *a, level=level: maps.update({f"En{level + 1}": a[2]}))
    for level, stage in zip((4, 3, 2, 1), network.decoder, strict=True):
        stage.register_forward_hook(lambda *a, level=level: maps.update({f"De{level}": a[2]}))
    for branch in network.decoder[1].branches:
        branch.register_forward_pre_hook(lambda _, inputs: branched.append(inputs[0]))
    network(noise())

    def enlarge(x, factor):
        return nn.Upsample(scale_factor=factor, mode="bilinear")(x)

    expected = [
        F.max_pool2d(maps["En1"], 4),
        F.max_pool2d(maps["En2"], 2),
        maps["En3"],
        enlarge(maps["De4"], 2),
        enlarge(maps["En5"], 4),
    ]
    for actual, wanted in zip(branched, expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_sizes_halve_with_each_level():
    maps = tiny()._maps(noise())
    assert [tuple(x.shape[1:]) for x in maps] == [
        (20, 32, 48),
        (20, 16, 24),
        (20, 8, 12),
        (20, 4, 6),
        (64, 2, 3),
    ]


def test_five_heads_are_enlarged_to_the_size_of_the_image():
    outputs = tiny().forward_all(noise())
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 32, 48)] * 5


def test_without_deep_supervision_there_is_one_head():
    network = tiny(deep_supervision=False)
    assert len(network.heads) == len(network.forward_all(noise())) == 1


def test_without_an_organ_the_one_channel_of_the_paper_is_exactly_zero():
    network = tiny(num_classes=1, organ=False, classification_guided=True)
    assert all((output == 0).all() for output in network.forward_all(noise()))


@pytest.mark.parametrize("num_classes", [2, 5])
def test_without_an_organ_everything_is_background(num_classes):
    network = tiny(num_classes=num_classes, organ=False, classification_guided=True)
    for output in network.forward_all(noise()):
        assert (output.argmax(1) == 0).all()
        assert (output.softmax(1)[:, 0] > 0.999).all()


def test_with_an_organ_the_logits_stay_as_they_are():
    guided = tiny(organ=True, classification_guided=True)
    plain = tiny()
    plain.load_state_dict({name: value for name, value in guided.state_dict().items() if "guidance" not in name})
    for actual, expected in zip(guided.forward_all(noise()), plain.forward_all(noise()), strict=True):
        assert torch.equal(actual, expected)


def test_each_image_of_a_batch_has_its_own_decision():
    network = tiny(organ=False, classification_guided=True)
    network.guidance.register_forward_hook(lambda *_: torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    logits = network(noise())
    assert (logits[0].argmax(0) != 0).any()
    assert (logits[1].argmax(0) == 0).all()


def test_training_is_not_guided():
    network = tiny(organ=False, classification_guided=True).train()
    assert all((output.argmax(1) != 0).any() for output in network.forward_all(noise()))
    assert (network(noise()).argmax(1) != 0).any()


def test_the_organ_is_looked_for_at_its_likeliest_place():
    guidance = tiny(classification_guided=True).guidance
    x = torch.randn(1, 64, 2, 3)
    torch.testing.assert_close(guidance(x), guidance.convolution(x).amax(dim=(2, 3)))


def test_the_guidance_learns_from_its_own_term_alone():
    network = tiny(classification_guided=True).train()
    mask = torch.zeros(2, 32, 48, dtype=torch.long)
    outputs, terms = network.forward_with_terms(noise(), mask, 255)
    assert set(terms) == {"classification"}
    sum(output.sum() for output in outputs).backward(retain_graph=True)
    assert network.guidance.convolution.weight.grad is None
    terms["classification"].backward()
    assert network.guidance.convolution.weight.grad.abs().max() > 0


def test_without_guidance_there_are_no_terms():
    outputs, terms = tiny().forward_with_terms(noise(), torch.zeros(2, 32, 48, dtype=torch.long), 255)
    assert len(outputs) == 5
    assert terms == {}


def test_an_organ_is_any_class_but_the_background_and_ignored_pixels_are_none():
    mask = torch.zeros(3, 4, 4, dtype=torch.long)
    mask[0, 1, 2] = 2
    mask[1, 1, 2] = 255
    right = torch.tensor([[-9.0, 9.0], [9.0, -9.0], [9.0, -9.0]])
    assert presence_loss(right, mask, 255) < 1e-3
    assert presence_loss(-right, mask, 255) == pytest.approx(9, abs=1e-3)
    assert presence_loss(torch.zeros(3, 2), mask, 255) == pytest.approx(math.log(2))


def test_an_image_without_labels_does_not_count():
    mask = torch.zeros(2, 4, 4, dtype=torch.long)
    mask[1] = 255
    scores = torch.tensor([[1.0, -1.0], [-7.0, 7.0]], requires_grad=True)
    assert presence_loss(scores, mask, 255) == presence_loss(scores[:1], mask[:1], 255)
    loss = presence_loss(scores, torch.full_like(mask, 255), 255)
    loss.backward()
    assert loss == 0
    assert scores.grad.isfinite().all()


def test_training_starts_undecided():
    torch.manual_seed(0)
    network = UNet3Plus(3, 21, width=8, classification_guided=True).train()
    mask = torch.randint(0, 21, (4, 32, 32))
    outputs, terms = network.forward_with_terms(torch.randn(4, 3, 32, 32), mask, 255)
    for output in outputs:
        assert F.cross_entropy(output, mask).item() == pytest.approx(math.log(21), abs=0.3)
    assert terms["classification"].item() == pytest.approx(math.log(2), abs=0.4)
