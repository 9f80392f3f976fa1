import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from segwright.layers.resize import resize
from segwright.networks.guided_attention import (
    ChannelAttention,
    GuidedAttention,
    GuidedAttentionNetwork,
    PositionAttention,
    SemanticModule,
)


def tiny(num_classes=3):
    torch.manual_seed(0)
    network = GuidedAttentionNetwork(1, num_classes, encoder="test_resnet", weights="none", channels=8)
    for module in network.modules():
        if hasattr(module, "gamma"):
            nn.init.normal_(module.gamma)
    return network


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def labels():
    return torch.zeros(2, 64, 96, dtype=torch.long)


def count(part):
    return sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.parametrize("attention", [PositionAttention(16), ChannelAttention()])
def test_attention_starts_as_the_identity(attention):
    x = noise(2, 16, 5, 7)
    assert torch.equal(attention(x), x)


def test_position_attention_is_an_unscaled_softmax_over_positions():
    torch.manual_seed(0)
    attention = PositionAttention(16)
    nn.init.constant_(attention.gamma, 0.7)
    x = noise(2, 16, 5, 7)
    query, key, value = (layer(x).flatten(2) for layer in (attention.query, attention.key, attention.value))
    weights = torch.einsum("bci,bcj->bij", query, key).softmax(dim=2)
    gathered = torch.einsum("bij,bcj->bci", weights, value).reshape(x.shape)
    torch.testing.assert_close(attention(x), 0.7 * gathered + x)


def test_channel_attention_is_a_softmax_of_the_greatest_product_minus_the_product():
    attention = ChannelAttention()
    nn.init.constant_(attention.gamma, 0.7)
    x = 0.3 * noise(2, 16, 5, 7)
    flat = x.flatten(2)
    energy = torch.einsum("bci,bdi->bcd", flat, flat)
    weights = (energy.amax(dim=2, keepdim=True) - energy).softmax(dim=2)
    torch.testing.assert_close(attention(x), 0.7 * torch.einsum("bcd,bdi->bci", weights, flat).reshape(x.shape) + x)


def test_a_channel_attends_least_to_itself():
    attention = ChannelAttention()
    nn.init.ones_(attention.gamma)
    x = torch.zeros(1, 2, 4, 4)
    x[:, 0, :2], x[:, 1, 2:] = 3.0, 1.0
    torch.testing.assert_close(attention(x)[:, 0], x.sum(dim=1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_position_attention_keeps_no_pair_of_positions_where_the_engine_can_do_without(layout):
    attention, x = PositionAttention(16), noise(1, 16, 5, 7).to(memory_format=layout)
    nn.init.ones_(attention.gamma)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # fails if the engine cannot
        linear = attention(x)
        linear.sum().backward()
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(linear, attention(x))


def test_products_of_channels_stay_in_single_precision():
    attention = ChannelAttention()
    nn.init.ones_(attention.gamma)
    x = noise(1, 16, 64, 64).bfloat16().float()
    expected = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        actual = attention(x)
    assert (actual - expected).abs().mean() < 0.02


def test_semantic_module_goes_down_two_levels_and_rebuilds_its_input():
    code, reconstruction = SemanticModule(128)(noise(1, 128, 8, 12))
    assert code.shape == (1, 512, 2, 3)
    assert reconstruction.shape == (1, 128, 8, 12)
    with torch.device("meta"):
        semantic = SemanticModule(128)
    weights = [tuple(value.shape) for value in semantic.parameters() if value.ndim == 4]
    assert [shape[:2] for shape in weights] == [
        *((256, 128), (256, 256), (512, 256), (512, 512)),
        *((256, 512), (256, 256), (256, 256), (128, 256), (128, 128), (128, 128)),
    ]
    assert [shape[2] for shape in weights] == [3, 3, 3, 3, 3, 3, 2, 3, 3, 2]


def test_a_stack_weights_its_attention_by_what_its_semantic_module_rebuilds():
    torch.manual_seed(0)
    stack = GuidedAttention(8).eval()
    maps = [noise(2, 16, 8, 12) + i for i in range(4)]
    found = stack(maps)
    codes, reconstructions = zip(*(stack.semantic(x) for x in maps), strict=True)
    for i, x in enumerate(maps):
        attended = stack.position[i](x) + stack.channel[i](x)
        expected = stack.projections[i](attended * stack.guides[i](reconstructions[i]))
        torch.testing.assert_close(found.attention[i], expected)
    assert torch.equal(found.inputs, torch.cat(maps))
    torch.testing.assert_close(found.codes, torch.cat(codes))
    torch.testing.assert_close(found.reconstructions, torch.cat(reconstructions))


def test_scales_share_the_semantic_module_of_a_stack_and_nothing_else():
    network = tiny()
    semantics = [module for module in network.modules() if isinstance(module, SemanticModule)]
    assert semantics == [network.first.semantic, network.second.semantic]
    seen = []
    for semantic in semantics:
        semantic.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    network(noise(2, 1, 64, 96))
    assert seen == [(4 * 2, 16, 16, 24)] * 2
    assert all(len(set(branch)) == 4 for branch in (network.first.position, network.first.channel))


def test_the_second_stack_sees_what_the_first_one_left_of_the_fused_map():
    network = tiny().eval()
    image = noise(2, 1, 64, 96)
    maps = network.encoder(image)
    scales = [resize(reduce(x), (16, 24)) for reduce, x in zip(network.reductions, maps, strict=True)]
    fused = network.fusion(torch.cat(scales, dim=1))
    first, second = network._stacks(scales)
    assert torch.equal(first.inputs, torch.cat([torch.cat([x, fused], dim=1) for x in scales]))
    expected = [torch.cat([x, a * fused], dim=1) for x, a in zip(scales, first.attention, strict=True)]
    assert torch.equal(second.inputs, torch.cat(expected))


def test_logits_are_the_mean_of_the_four_refined_ones():
    network = tiny().eval()
    image = noise(2, 1, 64, 96)
    main, *outputs = network.forward_all(image)
    assert len(outputs) == 8
    torch.testing.assert_close(main, torch.stack(outputs[:4]).mean(dim=0))
    assert torch.equal(network(image), main)
    maps = network.encoder(image)
    for logits, reduce, head, x in zip(outputs[4:], network.reductions, network.raw_heads, maps, strict=True):
        torch.testing.assert_close(logits, resize(head(resize(reduce(x), (16, 24))), (64, 96)))


def test_in_training_there_are_the_eight_outputs_of_the_paper():
    network = tiny().train()
    outputs, _ = network.forward_with_terms(noise(2, 1, 64, 96), labels(), 255)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 64, 96)] * 8
    assert network.auxiliary_weight == 1.0


@pytest.mark.parametrize("mode", [True, False])
def test_terms_are_the_distances_of_codes_and_reconstructions_of_each_scale(mode):
    network = tiny().train(mode)
    seen = []
    for stack in (network.first, network.second):
        stack.semantic.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[0], *outputs)))
    _, terms = network.forward_with_terms(noise(2, 1, 64, 96), labels(), 255)
    first, second = ([x.split(2) for x in stack] for stack in seen)
    code = sum(F.mse_loss(a.flatten(), b.flatten()) for a, b in zip(first[1], second[1], strict=True))
    pairs = [*zip(first[0], first[2], strict=True), *zip(second[0], second[2], strict=True)]
    assert len(pairs) == 8
    torch.testing.assert_close(terms["code"], 0.25 * code)
    torch.testing.assert_close(terms["reconstruction"], 0.1 * sum(F.mse_loss(a, b) for a, b in pairs))
    assert terms.keys() == {"code", "reconstruction"}


def test_terms_are_in_single_precision_and_the_same_for_every_mask():
    network = tiny().eval()
    image = noise(2, 1, 64, 96)
    with torch.autocast("cpu", torch.bfloat16):
        _, terms = network.forward_with_terms(image, labels(), 255)
        _, others = network.forward_with_terms(image, torch.full_like(labels(), 255), 255)
    assert terms == others
    assert all(term.dtype == torch.float32 for term in terms.values())


def test_no_prelu_is_called_twice():
    network = tiny().eval()
    calls = Counter()
    for module in network.modules():
        if isinstance(module, nn.PReLU):
            module.register_forward_hook(lambda module, *_: calls.update([module]))
    network.forward_with_terms(noise(2, 1, 64, 96), labels(), 255)
    assert len(calls) == 4 + 3 + 2 * 2 * 2 * 4
    assert set(calls.values()) == {1}


def test_the_published_backbone_is_that_of_gray_images():
    with torch.device("meta"):
        network = GuidedAttentionNetwork(1, 5, encoder="resnext101_32x8d", weights="none")
    assert count(network.encoder) == 86_736_064
    assert network.encoder.channels == (256, 512, 1024, 2048)


@pytest.mark.parametrize("channels", [4, 12])
def test_channels_without_a_whole_eighth_are_refused(channels):
    with pytest.raises(ValueError, match=f"channels is {channels}, .* give a multiple of 8"):
        GuidedAttentionNetwork(3, 5, encoder="test_resnet", weights="none", channels=channels)


def test_all_classes_are_about_as_likely_at_the_start():
    torch.manual_seed(0)
    network = GuidedAttentionNetwork(3, 5, encoder="test_resnet", weights="none").train()
    outputs, terms = network.forward_with_terms(noise(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long), 255)
    mask = torch.randint(0, 5, (2, 64, 64))
    for logits in outputs:
        assert F.cross_entropy(logits, mask).item() == pytest.approx(math.log(5), abs=0.15)
    assert all(term < 2 for term in terms.values())
