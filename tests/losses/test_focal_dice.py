import pytest
import torch
import torch.nn.functional as F

from segwright.losses.dice import Dice
from segwright.losses.focal import Focal
from segwright.losses.focal_dice import FocalDice

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(seed=0, *, scale=1.0, size=(5, 6), classes=4):
    torch.manual_seed(seed)
    logits = (scale * torch.randn(2, classes, *size)).requires_grad_()
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < 0.2] = 255
    return logits, mask


def right(mask, certainty):
    """Logits that favor the classes of the mask."""
    return certainty * F.one_hot(mask.where(mask != 255, 0), 4).movedim(-1, 1).float()


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_fixed_weights_give_the_plain_sum(size):
    logits, mask = batch(size=size)
    expected = Focal()(logits, mask) + Dice()(logits, mask)
    torch.testing.assert_close(FocalDice(dynamic=False)(logits, mask), expected)


def test_options_reach_the_two_losses():
    logits, mask = batch()
    loss = FocalDice(1.0, "median_frequency", include_background=False, dynamic=False, class_shares=SHARES)
    expected = Focal(1.0, "median_frequency", class_shares=SHARES)(logits, mask) + Dice(False)(logits, mask)
    torch.testing.assert_close(loss(logits, mask), expected)
    moved = FocalDice(dynamic=False, ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(moved, FocalDice(dynamic=False)(logits, mask))


def test_both_terms_have_the_same_share_of_the_first_loss():
    logits, mask = batch()
    focal, dice = Focal()(logits, mask), Dice()(logits, mask)
    # Equal shares with weights that add up to 2.
    torch.testing.assert_close(FocalDice()(logits, mask), 2 * (2 * focal * dice / (focal + dice)))


def test_weights_follow_running_means_over_the_training():
    loss, means, decay = FocalDice(decay=0.8), None, 0.8
    for seed in range(5):
        logits, mask = batch(seed)
        logits = logits + seed * right(mask, 1.0)
        terms = [Focal()(logits, mask).item(), Dice()(logits, mask).item()]
        means = [decay * a + (1 - decay) * b for a, b in zip(means, terms, strict=True)] if means else terms
        ratios = [sum(means) / 2 / mean for mean in means]
        weights = [2 * ratio / sum(ratios) for ratio in ratios]
        assert loss(logits, mask).item() == pytest.approx(weights[0] * terms[0] + weights[1] * terms[1], rel=1e-5)
    assert loss.means.tolist() == pytest.approx(means, rel=1e-5)


def test_the_gradient_takes_the_weights_as_constants():
    logits, mask = batch()
    focal, dice = Focal()(logits, mask), Dice()(logits, mask)
    weighted = 2 * (dice * focal.detach() + focal * dice.detach()) / (focal + dice).detach()
    gradients = (torch.autograd.grad(value, logits)[0] for value in (FocalDice()(logits, mask), weighted))
    torch.testing.assert_close(*gradients)


def test_an_evaluation_uses_the_means_and_does_not_change_them():
    loss = FocalDice()
    loss(*batch(0))
    before = loss.means.clone()
    loss.eval()
    logits, mask = batch(1)
    terms = torch.stack([Focal()(logits, mask), Dice()(logits, mask)])
    torch.testing.assert_close(loss(logits, mask), 2 * (before.flip(0) * terms).sum() / before.sum())
    assert torch.equal(loss.means, before)


def test_an_evaluation_before_any_training_gives_the_plain_sum():
    logits, mask = batch()
    assert torch.equal(FocalDice().eval()(logits, mask), FocalDice(dynamic=False)(logits, mask))


def test_an_all_void_batch_gives_zero_and_leaves_the_means():
    loss, fresh = FocalDice(), FocalDice()
    logits, mask = batch()
    void = torch.full_like(mask, 255)
    for each in (loss, fresh):
        value = each(logits, void)  # the first batch of all does not start the means
        assert value == 0
        assert torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros_like(logits))
    assert torch.equal(loss(logits, mask), FocalDice()(logits, mask))
    before = loss.means.clone()
    assert loss(logits, void) == 0
    assert torch.equal(loss.means, before)


@pytest.mark.parametrize("size", [3e38, torch.inf])  # the loss is infinite, or not a number
def test_a_batch_that_is_not_finite_leaves_the_means(size):
    loss = FocalDice()
    logits, mask = batch()
    loss(logits, mask)
    before = loss.means.clone()
    assert not loss(size * logits.sign(), mask).isfinite()
    assert torch.equal(loss.means, before)


def test_a_state_resumes_the_means():
    straight = FocalDice(decay=0.5)
    straight(*batch(0))
    resumed = FocalDice(decay=0.5)
    resumed.load_state_dict(straight.state_dict())
    assert torch.equal(resumed(*batch(1)), straight(*batch(1)))
    assert not torch.equal(FocalDice(decay=0.5)(*batch(1)), straight(*batch(1)))


def test_fixed_weights_keep_no_means():
    loss = FocalDice(dynamic=False)
    loss(*batch())
    assert loss.means.isnan().all()


def test_a_perfect_answer_costs_nothing():
    loss = FocalDice()
    _, mask = batch()
    logits = right(mask, 1e4).requires_grad_()
    value = loss(logits, mask)
    value.backward()
    assert value == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_saturated_logits_one_class_and_one_pixel_give_finite_values_and_gradients(classes, size, scale):
    loss = FocalDice()
    for seed in range(2):
        logits, mask = batch(seed, scale=scale, size=size, classes=classes)
        value = loss(logits, mask)
        value.backward()
        assert value.isfinite()
        assert logits.grad.isfinite().all()


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch()
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(FocalDice()(changed, mask), FocalDice()(logits, mask))


def test_half_precision_masks_of_bytes_and_autocast_are_taken():
    logits, mask = batch()
    logits = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = FocalDice()(logits.to(memory_format=torch.channels_last), mask.to(torch.uint8))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, FocalDice()(logits.float(), mask))


def test_gradients_are_those_of_finite_differences():
    logits, mask = batch(size=(3, 4))
    loss = FocalDice()
    loss(logits, mask)
    loss.eval()  # in training the weights move with the terms, on purpose without a gradient
    torch.autograd.gradcheck(lambda x: loss(x, mask), logits.detach().double().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(("name", "value"), [("gamma", -1.0), ("decay", 1.0), ("decay", -0.1)])
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"loss.focal_dice.{name} is {value}.*; try"):
        FocalDice(**{name: value})
