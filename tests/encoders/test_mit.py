import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.encoders import mit
from segwright.encoders.choice import encoder_strides, make_encoder
from segwright.encoders.mit import (
    SIZES,
    EfficientSelfAttention,
    MixFFN,
    MixTransformer,
    PatchMerging,
    TransformerBlock,
    convert,
)


def spread(network):
    """Leave no bias at zero and no normalization at one, behind which a mistake could hide."""
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.2, 0.3)
        elif parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return network


def on_meta(name, strides=(4, 8, 16, 32), in_channels=3):
    with torch.device("meta"):
        return MixTransformer(name, in_channels, strides, weights="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mit_b0", "mit_b2"])
@pytest.mark.parametrize("sides", [(96, 160), (32, 32)])
def test_features_equal_those_of_segmentation_models_pytorch(name, sides):
    peers = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    peer = spread(peers.encoders.get_encoder(name, in_channels=3, depth=5, weights=None)).eval()
    encoder = MixTransformer(name, 3, (4, 8, 16, 32)).eval()
    encoder.load_state_dict(convert(peer.state_dict()))
    image = torch.randn(2, 3, *sides)
    with torch.no_grad():
        for actual, expected in zip(encoder(image), peer(image)[-4:], strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mit_b0", 3_319_392),
        ("mit_b1", 13_151_424),
        ("mit_b2", 24_196_288),
        ("mit_b3", 44_072_128),
        ("mit_b4", 60_842_688),
        ("mit_b5", 81_443_008),
    ],
)
def test_parameters_are_those_of_segmentation_models_pytorch(name, count):
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == count


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1"])
@pytest.mark.parametrize("sides", [(64, 128), (96, 160), (32, 32)])
def test_maps_have_the_size_of_their_stride(name, sides):
    encoder = on_meta(name)
    features = encoder(torch.empty(2, 3, *sides, device="meta"))
    assert encoder.channels == SIZES[name][0]
    assert [tuple(x.shape) for x in features] == [
        (2, channels, sides[0] // stride, sides[1] // stride)
        for channels, stride in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]


def test_maps_come_in_the_order_that_is_asked_for():
    torch.manual_seed(0)
    every = MixTransformer("mit_b0", 3, (4, 8, 16, 32)).eval()
    some = MixTransformer("mit_b0", 3, (16, 4)).eval()
    some.load_state_dict({key: value for key, value in every.state_dict().items() if not key.startswith("stages.3.")})
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        fourth, _, sixteenth, _ = every(image)
        assert some.channels == (160, 32)
        assert torch.equal(some(image)[0], sixteenth)
        assert torch.equal(some(image)[1], fourth)


def test_stages_deeper_than_the_wanted_strides_are_not_there():
    assert len(on_meta("mit_b0", (8, 4)).stages) == 2
    assert len(on_meta("mit_b0", (16,)).stages) == 3


def test_other_channels_are_taken():
    encoder = on_meta("mit_b0", (4,), in_channels=5)
    assert encoder(torch.empty(1, 5, 32, 32, device="meta"))[0].shape == (1, 32, 8, 8)


def test_squares_of_8_4_2_and_1_tokens_share_a_key(monkeypatch):
    asked = []

    def note(query, key, value):
        asked.append((query.shape[1], query.shape[2], key.shape[2]))
        return torch.empty_like(query)

    monkeypatch.setattr(mit.F, "scaled_dot_product_attention", note)
    on_meta("mit_b0")(torch.empty(1, 3, 64, 96, device="meta"))
    # Heads, queries and keys: the queries are the tokens, the keys the same six in all stages.
    assert asked[::2] == [(1, 16 * 24, 6), (2, 8 * 12, 6), (5, 4 * 6, 6), (8, 2 * 3, 6)]


def test_a_reduction_of_one_has_no_layer():
    for side, stage in zip((8, 4, 2, 1), on_meta("mit_b2").stages, strict=True):
        for block in stage.blocks:
            if side == 1:
                assert block.attention.reduction is None
            else:
                convolution = block.attention.reduction.convolution
                assert convolution.kernel_size == convolution.stride == (side, side)
                assert convolution.padding == (0, 0)


def test_reduction_is_a_linear_layer_on_the_tokens_of_a_square():
    torch.manual_seed(0)
    reduction = PatchMerging(4, 4, 2, 2)
    tokens = torch.randn(1, 6, 8, 4)
    squares = tokens.reshape(1, 3, 2, 4, 2, 4).permute(0, 1, 3, 2, 4, 5).flatten(3)  # B H/R W/R R·R·C
    weight = reduction.convolution.weight.permute(0, 2, 3, 1).flatten(1)  # C R·R·C
    expected = reduction.norm(F.linear(squares, weight, reduction.convolution.bias))
    torch.testing.assert_close(reduction(tokens.permute(0, 3, 1, 2)), expected)


def test_attention_is_a_softmax_over_the_scaled_products_of_each_head():
    torch.manual_seed(0)
    attention = spread(EfficientSelfAttention(6, 3, 1))
    tokens = torch.randn(2, 3, 5, 6)
    flat = tokens.flatten(1, 2)
    key, value = attention.key_value(flat).split(6, dim=-1)
    query = attention.query(flat)
    heads = []
    for channels in (slice(0, 2), slice(2, 4), slice(4, 6)):
        weights = (query[..., channels] @ key[..., channels].mT / 2**0.5).softmax(-1)
        heads.append(weights @ value[..., channels])
    expected = attention.project(torch.cat(heads, dim=-1)).reshape(tokens.shape)
    torch.testing.assert_close(attention(tokens), expected)


def test_without_reduction_attention_does_not_know_where_tokens_are():
    torch.manual_seed(0)
    attention = spread(EfficientSelfAttention(8, 2, 1))
    tokens = torch.randn(1, 1, 15, 8)
    order = torch.randperm(15)
    torch.testing.assert_close(attention(tokens[:, :, order]), attention(tokens)[:, :, order])


def test_with_reduction_attention_knows_places_in_a_square_but_not_the_place_of_the_square():
    torch.manual_seed(0)
    attention = spread(EfficientSelfAttention(8, 2, 2))
    tokens = torch.randn(1, 2, 6, 8)
    squares = torch.tensor([4, 5, 0, 1, 2, 3])
    torch.testing.assert_close(attention(tokens[:, :, squares]), attention(tokens)[:, :, squares])
    within = torch.tensor([1, 0, 2, 3, 4, 5])
    assert not torch.allclose(attention(tokens[:, :, within]), attention(tokens)[:, :, within], atol=1e-3)


def test_a_single_key_is_all_that_every_token_gets():
    torch.manual_seed(0)
    attention = spread(EfficientSelfAttention(8, 2, 4))
    result = attention(torch.randn(1, 4, 4, 8))
    torch.testing.assert_close(result, result[:, :1, :1].expand_as(result))


def test_the_feed_forward_part_sees_the_eight_neighbors():
    torch.manual_seed(0)
    ffn = spread(MixFFN(4))
    tokens = torch.randn(1, 7, 7, 4, requires_grad=True)
    ffn(tokens)[0, 3, 3].sum().backward()
    seen = tokens.grad[0].abs().sum(-1) > 0
    assert seen[2:5, 2:5].all()
    assert seen.sum() == 9


def test_zeros_at_the_border_tell_the_feed_forward_part_where_a_token_is():
    torch.manual_seed(0)
    ffn = spread(MixFFN(4))
    result = ffn(torch.ones(1, 5, 5, 4))[0]
    inside = result[1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:1, :1].expand_as(inside))
    assert (result[0, 1:-1] - inside[0]).abs().amax(-1).min() > 1e-3


def test_the_feed_forward_part_is_four_times_as_wide():
    ffn = MixFFN(6)
    assert (ffn.linear1.out_features, ffn.depthwise.groups, ffn.linear2.in_features) == (24, 24, 24)


def test_patches_overlap():
    stages = on_meta("mit_b0").stages
    convolutions = [stage.merging.convolution for stage in stages]
    assert [(c.kernel_size[0], c.stride[0], c.padding[0]) for c in convolutions] == [
        (7, 4, 3),
        (3, 2, 1),
        (3, 2, 1),
        (3, 2, 1),
    ]


def test_a_block_adds_both_parts_to_what_comes_in():
    torch.manual_seed(0)
    block = spread(TransformerBlock(8, 2, 2, 0.0)).eval()
    x = torch.randn(1, 4, 6, 8)
    attended = x + block.attention(F.layer_norm(x, (8,), block.attention_norm.weight, block.attention_norm.bias))
    normalized = F.layer_norm(attended, (8,), block.ffn_norm.weight, block.ffn_norm.bias)
    torch.testing.assert_close(block(x), attended + block.ffn(normalized), rtol=1e-4, atol=1e-4)


def test_a_block_that_is_always_left_out_in_training_changes_nothing_there():
    torch.manual_seed(0)
    block = spread(TransformerBlock(8, 2, 1, 1.0))
    x = torch.randn(2, 4, 6, 8)
    assert torch.equal(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x)


@pytest.mark.parametrize("strides", [(32,), (8,)])
def test_later_blocks_are_left_out_more_often(strides):
    shares = [block.drop_path.drop_prob for stage in on_meta("mit_b0", strides).stages for block in stage.blocks]
    expected = [0.1 * block / 7 for block in range(8)]
    assert shares == pytest.approx(expected[: len(shares)])


def test_every_stage_ends_with_normalized_tokens():
    torch.manual_seed(0)
    encoder = MixTransformer("mit_b0", 3, (4, 8, 16, 32)).eval()
    for x in encoder(torch.randn(1, 3, 64, 64)):
        torch.testing.assert_close(x.mean(dim=1), torch.zeros_like(x[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(x.var(dim=1, correction=0), torch.ones_like(x[:, 0]), rtol=0, atol=1e-3)


def test_linear_layers_start_narrow():
    torch.manual_seed(0)
    for module in MixTransformer("mit_b0", 3, (4,)).modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not module.bias.any()


def test_trained_weights_are_not_known_and_auto_says_that_it_starts_at_random():
    with pytest.raises(ValueError, match="'imagenet' of encoder 'mit_b3' are not known here; use weights 'none'"):
        MixTransformer("mit_b3", 3, (4,), weights="imagenet")
    assert MixTransformer("mit_b0", 3, (4,), weights="auto").weights_used == "none, random start"


def test_a_missing_stride_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'mit_b0' has no stride 2; choose from 4, 8, 16, 32"):
        on_meta("mit_b0", (2, 4))


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_is_refused(output_stride):
    message = f"'mit_b0' cannot be dilated; take one that dilates to {output_stride}"
    with pytest.raises(ValueError, match=message):
        make_encoder("mit_b0", 3, (4, output_stride), output_stride=output_stride, weights="none")
    with pytest.raises(ValueError, match=message):
        encoder_strides("mit_b0", output_stride)


def test_a_side_without_whole_squares_is_refused():
    with pytest.raises(ValueError, match=r"image is 48 x 64, but mit_b0 needs .* multiples of 32; pad to 64 x 64"):
        on_meta("mit_b0", (4, 8))(torch.empty(1, 3, 48, 64, device="meta"))
