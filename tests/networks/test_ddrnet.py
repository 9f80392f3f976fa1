import torch

from segwright.networks.ddrnet import DAPPM, VARIANTS, DDRNet


def test_defaults_are_the_slim_variant():
    assert (
        DDRNet(3, 19, auxiliary_head=False).state_dict().keys()
        == DDRNet(3, 19, **VARIANTS["DDRNet-23-slim"]).state_dict().keys()
    )


def test_pyramid_pooling_takes_a_single_cell():
    pyramid = DAPPM(16, 8, 4).eval()
    assert pyramid(torch.randn(1, 16, 1, 1)).shape == (1, 4, 1, 1)


def test_pyramid_pools_with_windows_of_5_9_17_and_all():
    pools = DAPPM(16, 8, 4).pools
    x = torch.randn(1, 16, 16, 32)
    assert [tuple(pool(x).shape[2:]) for pool in pools] == [(16, 32), (8, 16), (4, 8), (2, 4), (1, 1)]


def test_a_map_at_64_that_rounds_up_is_taken():
    network = DDRNet(3, 5, width=8, head_channels=8, pyramid_channels=8).eval()
    assert network(torch.randn(1, 3, 96, 160)).shape == (1, 5, 96, 160)


def test_without_the_auxiliary_head_there_is_one_output_and_no_weight_of_it():
    network = DDRNet(3, 5, width=8, auxiliary_head=False)
    assert len(network.forward_all(torch.randn(2, 3, 64, 64))) == 1
    assert not [name for name in network.state_dict() if "auxiliary" in name]


def test_branches_meet_at_an_eighth():
    fused, high = DDRNet(3, 5, width=8)._features(torch.randn(2, 3, 64, 128))
    assert fused.shape == (2, 32, 8, 16)
    assert high.shape == (2, 16, 8, 16)
