import pytest
import timm
import torch
from torch import nn

from segwright.encoders.dilation import dilate_whole_stages


def dilations(stage):
    return {
        module.dilation for module in stage.modules() if isinstance(module, nn.Conv2d) and module.kernel_size[0] > 1
    }


@pytest.mark.parametrize(("output_stride", "expected"), [(8, [1, 1, 2, 4]), (16, [1, 1, 1, 2]), (32, [1, 1, 1, 1])])
@pytest.mark.parametrize("name", ["resnet18", "resnet50s", "seresnext50_32x4d"])
def test_all_units_of_a_stage_have_one_dilation(name, output_stride, expected):
    with torch.device("meta"):
        network = timm.create_model(name, features_only=True, output_stride=output_stride)
    dilate_whole_stages(network, output_stride)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [dilations(stage) for stage in stages] == [{(rate, rate)} for rate in expected]


def test_timm_alone_leaves_the_first_unit_behind():
    with torch.device("meta"):
        network = timm.create_model("resnet50", features_only=True, output_stride=8)
    assert dilations(network.layer4) == {(2, 2), (4, 4)}


def test_sizes_and_the_stages_before_stay():
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", features_only=True, output_stride=8).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    image = torch.randn(1, 3, 40, 64)
    before = network(image)
    dilate_whole_stages(network, 8)
    after = network(image)
    assert [x.shape for x in before] == [x.shape for x in after]
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [True, True, True, False, False]
