import torch

from segwright.networks.bisenetv2 import BiSeNetV2, GatherAndExpansion


def test_parts_have_the_published_parameters():
    network = BiSeNetV2(3, 19)
    counts = {name: sum(value.numel() for value in part.parameters()) for name, part in network.named_children()}
    semantic = sum(counts[name] for name in ("stem", "stage3", "stage4", "stage5", "context"))
    assert (counts["detail"], semantic, counts["aggregation"], counts["head"]) == (
        519_232,
        1_159_504,
        478_720,
        1_201_171,
    )


def test_without_boosters_no_weight_of_them_is_there():
    names = BiSeNetV2(3, 5, boosters=False).state_dict()
    assert not [name for name in names if "booster" in name]


def test_boosters_do_not_change_the_names_of_the_rest():
    with_boosters = BiSeNetV2(3, 5).state_dict()
    without = BiSeNetV2(3, 5, boosters=False).state_dict()
    assert set(without) == {name for name in with_boosters if not name.startswith("boosters.")}


def test_there_are_five_outputs_in_training():
    outputs = BiSeNetV2(3, 5, head_channels=16, booster_channels=8).forward_all(torch.randn(2, 3, 64, 32))
    assert len(outputs) == 5


def test_gather_and_expansion_with_a_zero_last_norm_is_relu():
    block = GatherAndExpansion(8, 8).eval()
    torch.nn.init.zeros_(block.project[1].weight)
    x = torch.randn(2, 8, 6, 7)
    assert torch.equal(block(x), x.relu())


def test_branches_meet_at_an_eighth():
    fused, stages = BiSeNetV2(3, 5, head_channels=16)._features(torch.randn(2, 3, 64, 96))
    assert fused.shape == (2, 128, 8, 12)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
