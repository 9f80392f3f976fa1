import torch

from segwright.networks.bisenet import AttentionRefinementModule, BiSeNet, FeatureFusionModule, Xception39

SMALL = {"encoder": "test_resnet", "weights": "none", "width": 16}


def test_the_small_context_path_has_the_published_parameters():
    assert sum(parameter.numel() for parameter in Xception39(3).parameters()) == 299_448


def test_the_paths_meet_at_an_eighth():
    fused, maps = BiSeNet(3, 5, **SMALL)._features(torch.randn(2, 3, 64, 96))
    assert fused.shape == (2, 32, 8, 12)
    assert [tuple(x.shape[1:]) for x in maps] == [(16, 8, 12), (16, 4, 6)]


def test_the_gate_of_the_refinement_is_between_0_and_1_and_the_same_everywhere():
    module = AttentionRefinementModule(8, 4).eval()
    x = torch.randn(2, 8, 5, 6)
    filtered = module.filter(x)
    gate = module(x) / filtered
    positive = filtered > 0
    assert ((gate[positive] > 0) & (gate[positive] < 1)).all()
    for channel in range(4):
        values = gate[0, channel][positive[0, channel]]
        torch.testing.assert_close(values, values[:1].expand_as(values))


def test_a_closed_gate_of_the_fusion_leaves_the_joined_maps():
    module = FeatureFusionModule(8).eval()
    torch.nn.init.zeros_(module.attention[2].weight)
    spatial, context = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    joined = module.join(torch.cat([spatial, context], dim=1))
    torch.testing.assert_close(module(spatial, context), 1.5 * joined)


def test_the_image_average_reaches_every_pixel():
    network = BiSeNet(3, 5, **SMALL).eval()
    image = torch.randn(1, 3, 64, 160)
    changed = image.clone()
    changed[..., -32:] += 1
    before, after = (network.up16(network._features(x)[1][0]) for x in (image, changed))
    assert (before != after).any(dim=1).all()


def test_without_auxiliary_heads_no_weight_of_them_is_there():
    network = BiSeNet(3, 5, auxiliary_heads=False, **SMALL)
    assert not [name for name in network.state_dict() if "auxiliary" in name]
    assert len(network.forward_all(torch.randn(2, 3, 64, 64))) == 1
