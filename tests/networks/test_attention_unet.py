import pytest
import torch
from torch import nn

from segwright.networks.attention_unet import AttentionUNet, GridAttention, SkipAttention

WIDTHS = (4, 4, 8, 8, 8)


def gate_and_maps(dimensions=2):
    torch.manual_seed(0)
    sides = (6, 8, 4)[:dimensions]
    skip, gating = torch.randn(2, 4, *sides), torch.randn(2, 8, *(side // 2 for side in sides))
    return GridAttention(4, 8, dimensions), skip, gating


@pytest.mark.parametrize("dimensions", [2, 3])
def test_coefficients_are_between_0_and_1_and_one_a_pixel(dimensions):
    gate, skip, gating = gate_and_maps(dimensions)
    coefficients = gate.coefficients(skip, gating)
    assert coefficients.shape == (2, 1, *skip.shape[2:])
    assert ((coefficients > 0) & (coefficients < 1)).all()
    assert coefficients.std() > 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_with_a_zero_psi_half_of_the_skip_passes(dimensions):
    gate, skip, gating = gate_and_maps(dimensions)
    nn.init.zeros_(gate.psi.weight)
    nn.init.zeros_(gate.psi.bias)
    torch.testing.assert_close(gate.eval()(skip, gating), gate.output(0.5 * skip))


def test_coefficients_follow_the_equation_of_the_gate():
    gate, skip, gating = gate_and_maps()
    summed = nn.functional.conv2d(skip, gate.theta.weight, stride=2)
    summed = summed + nn.functional.conv2d(gating, gate.phi.weight, gate.phi.bias)
    small = nn.functional.conv2d(summed.relu(), gate.psi.weight, gate.psi.bias).sigmoid()
    expected = nn.functional.interpolate(small, size=(6, 8), mode="bilinear")
    torch.testing.assert_close(gate.coefficients(skip, gating), expected)


def test_theta_has_stride_2_and_no_bias_and_phi_has_one():
    gate, _, _ = gate_and_maps()
    assert (gate.theta.kernel_size, gate.theta.stride, gate.theta.bias) == ((2, 2), (2, 2), None)
    assert gate.phi.kernel_size == (1, 1)
    assert gate.phi.bias is not None


def test_there_is_no_normalization_before_the_product():
    gate, _, _ = gate_and_maps()
    norms = [name for name, module in gate.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["output.1"]


def test_two_gates_are_joined_and_combined():
    _, skip, gating = gate_and_maps()
    attention = SkipAttention(2, 4, 8, 2).eval()
    first, second = attention.gates
    expected = attention.combine(torch.cat([first(skip, gating), second(skip, gating)], dim=1))
    assert torch.equal(attention(skip, gating), expected)
    assert not torch.allclose(first.coefficients(skip, gating), second.coefficients(skip, gating))


@pytest.mark.parametrize(("attention", "gates"), [("none", 0), ("single", 1), ("multi", 2)])
def test_all_skips_but_the_finest_are_gated(attention, gates):
    network = AttentionUNet(3, 2, attention=attention, widths=WIDTHS)
    counts = [len(step.attention.gates) if step.attention is not None else 0 for step in network.decoder]
    assert counts == [gates, gates, gates, 0]
    assert isinstance(network.gating, nn.Identity) == (attention == "none")


def test_the_deepest_gate_is_steered_by_the_center_and_the_others_by_the_step_below():
    network = AttentionUNet(3, 2, widths=WIDTHS).eval()
    outputs, gatings = [], []
    network.gating.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    for step in network.decoder:
        step.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        if step.attention is not None:
            step.attention.register_forward_pre_hook(lambda _, inputs: gatings.append(inputs[1]))
    network(torch.randn(1, 3, 32, 48))
    assert len(gatings) == 3
    assert all(torch.equal(gating, output) for gating, output in zip(gatings, outputs, strict=False))


def test_logits_mix_the_heads_of_all_four_steps():
    network = AttentionUNet(3, 2, widths=WIDTHS).eval()
    sizes = []
    for head in network.heads:
        head.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[1:])))
    network(torch.randn(1, 3, 32, 48))
    assert sizes == [(2, 4, 6), (2, 8, 12), (2, 16, 24), (2, 32, 48)]
    assert network.final.in_channels == 8


def test_a_network_for_volumes_computes_what_the_one_for_images_does_on_equal_slices():
    # Kernels that are zero but in their middle slice, and slices that are all the same, make depth invisible.
    torch.manual_seed(0)
    flat, deep = AttentionUNet(1, 2, widths=WIDTHS).eval(), AttentionUNet(1, 2, widths=WIDTHS, dimensions=3).eval()
    own = dict(deep.named_parameters())
    with torch.no_grad():
        for name, value in flat.named_parameters():
            if own[name].ndim == value.ndim:
                own[name].copy_(value)
            else:
                own[name].zero_()
                own[name][:, :, own[name].shape[2] // 2] = value
        image = torch.randn(1, 1, 32, 16)
        volume = image[:, :, None].expand(-1, -1, 16, -1, -1)
        torch.testing.assert_close(deep(volume), flat(image)[:, :, None].expand(-1, -1, 16, -1, -1))


def test_volumes_of_odd_sides_are_taken():
    network = AttentionUNet(1, 2, widths=WIDTHS, dimensions=3).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 17, 21, 30)).shape == (1, 2, 17, 21, 30)


def test_a_wrong_number_of_widths_is_refused():
    with pytest.raises(ValueError, match="widths has 2 numbers, but AttentionUNet needs 5"):
        AttentionUNet(3, 2, widths=(8, 8))
