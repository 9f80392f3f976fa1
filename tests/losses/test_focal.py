import math

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from segwright.layers.class_weights import class_weights
from segwright.losses.cross_entropy import CrossEntropy
from segwright.losses.focal import Focal

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_the_shares(logits_of):
    """Logits and a mask of 20 pixels whose classes have the shares above."""
    mask = torch.repeat_interleave(torch.arange(4), torch.tensor([10, 6, 3, 1]))[None]
    return logits_of(1, 4, 20), mask


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("balance", ["none", "median_frequency", "inverse_log"])
def test_equals_the_formula_for_any_number_of_axes(size, gamma, balance):
    logits, mask = batch(*size)
    weights = torch.ones(4) if balance == "none" else class_weights(balance, SHARES)
    weights = weights / (weights * torch.tensor(SHARES)).sum()
    valid = mask != 255
    own = logits.softmax(dim=1).movedim(1, -1)[valid].gather(1, mask[valid][:, None])[:, 0]  # one a valid pixel
    expected = -(weights[mask[valid]] * (1 - own) ** gamma * own.log()).sum() / valid.sum()
    loss = Focal(gamma, balance, class_shares=SHARES)(logits, mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_two_classes_equal_the_sigmoid_loss_of_torchvision():
    torch.manual_seed(0)
    scores, mask = torch.randn(2, 5, 6), torch.randint(0, 2, (2, 5, 6))
    expected = sigmoid_focal_loss(scores, mask.float(), alpha=-1, gamma=2, reduction="mean")
    logits = torch.stack([torch.zeros_like(scores), scores], dim=1)
    torch.testing.assert_close(Focal()(logits, mask), expected)


@pytest.mark.parametrize(("probability", "factor"), [(0.9, 0.01), (0.968, 0.00102)])
def test_pixels_that_are_right_count_less_by_the_factors_of_the_paper(probability, factor):
    logits = torch.tensor([[[0.0], [math.log(probability / (1 - probability))]]])
    mask = torch.tensor([[1]])
    ratio = Focal()(logits, mask) / CrossEntropy()(logits, mask)
    assert ratio == pytest.approx(factor, rel=5e-3)


def test_without_exponent_and_weights_it_is_cross_entropy():
    logits, mask = batch(5, 6)
    loss, expected = Focal(0.0)(logits, mask), CrossEntropy()(logits, mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_without_exponent_a_batch_like_the_training_set_has_its_weighted_cross_entropy():
    torch.manual_seed(0)
    logits, mask = with_the_shares(torch.randn)
    loss = Focal(0.0, "median_frequency", class_shares=SHARES)(logits, mask)
    torch.testing.assert_close(loss, CrossEntropy("median_frequency", class_shares=SHARES)(logits, mask))


@pytest.mark.parametrize("balance", ["median_frequency", "inverse_log"])
def test_weights_do_not_change_the_size_of_the_loss_over_the_training_set(balance):
    logits, mask = with_the_shares(torch.zeros)
    torch.testing.assert_close(Focal(2.0, balance, class_shares=SHARES)(logits, mask), Focal()(logits, mask))


def test_a_batch_of_a_rare_class_counts_more_than_one_of_a_frequent_class():
    loss = Focal(2.0, "median_frequency", class_shares=SHARES)
    frequent, rare = (loss(torch.zeros(1, 4, 5), torch.full((1, 5), label)) for label in (0, 3))
    torch.testing.assert_close(rare / frequent, torch.tensor(SHARES[0] / SHARES[3]))


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_pixels_that_are_certainly_right_cost_nothing_and_have_finite_gradients(gamma):
    _, mask = batch(5, 6)
    logits = 1e4 * F.one_hot(mask.where(mask != 255, 0), 4).movedim(-1, 1).float()
    logits.requires_grad_()
    loss = Focal(gamma)(logits, mask)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
def test_saturated_logits_one_class_and_one_pixel_give_finite_values_and_gradients(gamma, classes, size):
    logits, mask = batch(*size, classes=classes)
    for scores in (logits, 1e4 * logits, 1e4 * logits.sign() + 0 * logits):
        loss = Focal(gamma)(scores, mask)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_a_pixel_that_is_certainly_wrong_costs_the_difference_of_its_logits():
    logits = torch.tensor([[[1e4], [-1e4]]])
    assert Focal()(logits, torch.tensor([[1]])) == pytest.approx(2e4)


@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_an_all_void_batch_gives_zero_and_finite_gradients(balance):
    logits, mask = batch(5, 6)
    loss = Focal(0.5, balance, class_shares=SHARES)(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 100.0, logits)
    assert torch.equal(Focal()(changed, mask), Focal()(logits, mask))


@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_another_ignore_label_is_taken(balance):
    logits, mask = batch(5, 6)
    loss = Focal(balance=balance, class_shares=SHARES, ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(loss, Focal(balance=balance, class_shares=SHARES)(logits, mask))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_gradients_are_those_of_finite_differences(gamma, balance):
    logits, mask = batch(3, 4)
    loss = Focal(gamma, balance, class_shares=SHARES)
    torch.autograd.gradcheck(lambda x: loss(x, mask), logits.detach().double().requires_grad_(), fast_mode=True)


def test_weights_are_no_part_of_the_state():
    assert not Focal(balance="inverse_log", class_shares=SHARES).state_dict()


@pytest.mark.parametrize("gamma", [-1.0, float("nan"), float("inf")])
def test_an_exponent_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match=r"loss.focal.gamma is .*; try 2"):
        Focal(gamma)
