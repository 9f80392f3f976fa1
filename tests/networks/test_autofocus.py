import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segwright.networks.autofocus import AFN, AutofocusConvolution


class Fixed(nn.Module):
    """Attention that is what it is, whatever the features."""

    def __init__(self, shares):
        super().__init__()
        self.shares = shares

    def forward(self, features):
        return self.shares


def make_layer(in_channels=6, out_channels=5):
    torch.manual_seed(0)
    layer = AutofocusConvolution(in_channels, out_channels, (2, 6, 10, 14)).eval()
    nn.init.normal_(layer.weight)
    for norm in layer.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return layer


@pytest.mark.parametrize(("branch", "dilation"), list(enumerate((2, 6, 10, 14))))
def test_attention_to_one_branch_is_a_plain_dilated_convolution(branch, dilation):
    layer = make_layer()
    one_hot = F.one_hot(torch.full((2, 33, 40), branch), 4).movedim(-1, 1)
    layer.attention = Fixed(one_hot)
    plain = nn.Conv2d(6, 5, 3, padding=dilation, dilation=dilation, bias=False)
    plain.weight = layer.weight
    x = torch.randn(2, 6, 33, 40)
    torch.testing.assert_close(layer(x), layer.norms[branch](plain(x)))


def test_branches_share_one_weight_but_not_their_normalization():
    layer = make_layer()
    kernels = [value for name, value in layer.named_parameters() if value.ndim == 4 and "attention" not in name]
    assert [kernel.shape for kernel in kernels] == [(5, 6, 3, 3)]
    assert len({id(norm.weight) for norm in layer.norms}) == 4


def test_attention_sums_to_one_over_the_branches():
    layer = make_layer()
    attention = layer.attention(torch.randn(2, 6, 9, 8))
    assert attention.shape == (2, 4, 9, 8)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 9, 8))


def test_result_is_the_sum_of_the_branches_weighted_by_attention():
    layer = make_layer()
    x = torch.randn(2, 6, 20, 21)
    attention = layer.attention(x)
    expected = torch.zeros(2, 5, 20, 21)
    for branch, dilation in enumerate((2, 6, 10, 14)):
        y = F.conv2d(F.pad(x, [dilation] * 4), layer.weight, dilation=dilation)
        expected += attention[:, branch : branch + 1] * layer.norms[branch](y)
    torch.testing.assert_close(layer(x), expected)


def test_attention_does_not_change_the_features_it_looks_at():
    layer = make_layer()
    features = torch.randn(1, 6, 9, 9, requires_grad=True)
    gradient = torch.autograd.grad(layer(features).square().sum(), features)[0]
    layer.attention = Fixed(layer.attention(features).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(layer(features).square().sum(), features)[0])


def test_attention_learns():
    layer = make_layer()
    layer(torch.randn(1, 6, 9, 9)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.attention.parameters())


@pytest.mark.parametrize("number", range(7))
def test_the_last_convolutions_of_the_blocks_have_autofocus(number):
    with torch.device("meta"):
        network = AFN(4, 5, autofocus_layers=number)
    convolutions = [convolution for block in network.blocks for convolution in (block.conv1, block.conv2)]
    has_autofocus = [isinstance(convolution, AutofocusConvolution) for convolution in convolutions]
    assert has_autofocus == [False] * (6 - number) + [True] * number


def test_blocks_are_as_wide_as_published():
    with torch.device("meta"):
        network = AFN(4, 5)
    kernels = [layer.weight.shape[:2] for block in network.blocks for layer in (block.conv1, block.conv2)]
    assert kernels == [(40, 30), (40, 40), (40, 40), (40, 40), (50, 40), (50, 50)]
    assert [len(block.shortcut) > 0 for block in network.blocks] == [True, False, True]


def test_plain_convolutions_of_the_blocks_have_the_first_dilation():
    with torch.device("meta"):
        network = AFN(4, 5, autofocus_layers=0)
    assert {block.conv1[0].dilation for block in network.blocks} == {(2, 2)}


def test_all_kernels_start_with_a_deviation_of_a_hundredth():
    torch.manual_seed(0)
    kernels = [value for value in AFN(4, 5).parameters() if value.ndim == 4 and value.numel() > 1000]
    assert len(kernels) > 8
    assert all(0.009 < kernel.std() < 0.011 for kernel in kernels)


def test_every_size_is_taken():
    network = AFN(3, 2, widths=(4, 4), autofocus_layers=1).eval()
    assert network(torch.randn(1, 3, 7, 11)).shape == (1, 2, 7, 11)


def test_more_autofocus_layers_than_convolutions_are_refused():
    with pytest.raises(ValueError, match="autofocus_layers is 7, but 3 residual blocks have 6 convolutions"):
        AFN(3, 2, autofocus_layers=7)
