import pytest
import torch
from torch import nn

from segwright.networks.fc_resnet import Bottleneck, FCResNet, Merge, Preprocessor, SimpleBlock

SMALL = {"width": 4, "repetitions": (1, 1, 1, 1), "preprocessor_width": 4}


def on_meta(**arguments):
    with torch.device("meta"):
        return FCResNet(1, 1, **arguments)


def shuffle_statistics(network):
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def test_preprocessor_makes_one_channel_of_the_image_s_size():
    image = torch.randn(2, 3, 16, 32)
    assert Preprocessor(3, [4, 8, 16, 32, 64])(image).shape == (2, 1, 16, 32)
    assert FCResNet(3, 5, **SMALL).down1.in_channels == 1


def test_preprocessor_has_low_capacity():
    network = on_meta()
    sizes = [sum(value.numel() for value in part.parameters()) for part in (network.preprocessor, network)]
    assert sizes[0] < 0.2 * sizes[1]


def test_preprocessor_does_not_normalize_by_statistics():
    assert not any(isinstance(module, nn.BatchNorm2d) for module in Preprocessor(3, [4, 8]).modules())


def test_preprocessor_joins_the_maps_of_the_way_down():
    torch.manual_seed(0)
    fcn = Preprocessor(1, [4, 8])
    image = torch.randn(1, 1, 4, 4)
    at_full_size = fcn.down[0](image)
    below = fcn.down[1](nn.MaxPool2d(2)(at_full_size))
    joined = torch.cat([at_full_size, fcn.enlarge[0](below)], dim=1)
    torch.testing.assert_close(fcn(image), fcn.output(fcn.up[0](joined)))


def test_network_is_the_fc_resnet_of_the_normalized_image():
    torch.manual_seed(0)
    network = FCResNet(3, 5, **SMALL).eval()
    alone = FCResNet(1, 5, preprocessor=False, **SMALL).eval()
    weights = network.state_dict()
    alone.load_state_dict({name: value for name, value in weights.items() if not name.startswith("preprocessor.")})
    image = torch.randn(1, 3, 32, 64)
    torch.testing.assert_close(network(image), alone(network.preprocessor(image)))


def test_loss_of_the_segmentation_trains_the_preprocessor():
    network = FCResNet(3, 5, **SMALL)
    network(torch.randn(2, 3, 32, 64)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.preprocessor.parameters())


def test_steps_are_repeated_as_published():
    network = on_meta()
    steps = [network.down3, network.down4, network.down5, network.across, network.up1, network.up2, network.up3]
    assert [len(step) for step in steps] == [3, 8, 10, 3, 10, 8, 3]


def test_steps_have_the_published_widths_and_sizes():
    network = on_meta(preprocessor=False, repetitions=(1, 1, 1, 1))
    steps = {}
    for name, step in network.named_children():
        step.register_forward_hook(lambda *arguments, name=name: steps.update({name: tuple(arguments[2].shape[1:3])}))
    network(torch.randn(1, 1, 64, 64, device="meta"))
    assert {name: shape for name, shape in steps.items() if name.startswith(("down", "across", "up"))} == {
        "down1": (32, 64),
        "down2": (32, 32),
        "down3": (128, 16),
        "down4": (256, 8),
        "down5": (512, 4),
        "across": (1024, 2),
        "up1": (512, 4),
        "up2": (256, 8),
        "up3": (128, 16),
        "up4": (32, 32),
        "up5": (32, 64),
    }


def test_first_convolution_sees_an_image_that_no_statistics_have_changed():
    network = FCResNet(3, 5, preprocessor=False, **SMALL).eval()
    seen = []
    network.down1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 3, 32, 32)
    network(image)
    assert torch.equal(seen[0], image)


def test_bottleneck_whose_path_is_silent_hands_on_its_input():
    block = Bottleneck(8, 8, 1, 0.0).eval()
    nn.init.zeros_(block.path[8].weight)
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(block(x), x)


def test_simple_block_whose_path_is_silent_hands_on_every_second_pixel():
    block = SimpleBlock(4, 2, 0.0).eval()
    nn.init.zeros_(block.convolution.weight)
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(block(x), x[..., ::2, ::2])


def test_normalization_and_relu_come_before_each_convolution():
    path = Bottleneck(8, 8, 1, 0.0).path
    assert [type(module) for module in path] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * 3 + [nn.Dropout]
    assert [module.kernel_size[0] for module in path if isinstance(module, nn.Conv2d)] == [1, 3, 1]


def test_doubling_after_the_block_equals_doubling_within_it():
    torch.manual_seed(0)
    block, merge = shuffle_statistics(Bottleneck(8, 8, 1, 0.1)), Merge(8, 4)
    x, skip = torch.randn(1, 8, 3, 5), torch.randn(1, 4, 6, 10)
    double = nn.Upsample(scale_factor=2)
    within = block.path[8](double(block.path[:8](x))) + double(x)
    torch.testing.assert_close(merge(block(x), skip), merge.fit(within) + skip)


def test_long_skip_connections_are_sums():
    torch.manual_seed(0)
    network = shuffle_statistics(FCResNet(1, 2, preprocessor=False, **SMALL))
    merged = []
    for merge in (network.merge1, network.merge4, network.merge5):
        merge.register_forward_hook(lambda merge, inputs, output: merged.append((merge, *inputs, output)))
    image = torch.randn(1, 1, 32, 64)
    network(image)
    down1 = network.down1(image)
    down2 = network.down2(down1)
    down5 = network.down5(network.down4(network.down3(down2)))
    for (merge, below, skip, output), expected in zip(merged, (down5, down2, down1), strict=True):
        torch.testing.assert_close(skip, expected)
        torch.testing.assert_close(output - skip, nn.Upsample(scale_factor=2)(merge.fit(below)))


def test_other_than_four_repetitions_are_refused():
    with pytest.raises(ValueError, match="repetitions has 3 numbers, but FCResNet needs 4"):
        FCResNet(1, 2, repetitions=(3, 8, 10))
