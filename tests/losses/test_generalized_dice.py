import pytest
import torch
import torch.nn.functional as F

from segwright.losses.generalized_dice import GeneralizedDice


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_one_hot_masks(logits, mask, counted=(0, 1, 2, 3)):
    """The same by the formula, over the classes `counted`."""
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    probabilities = logits.softmax(dim=1) * valid[:, None]
    axes = (0, *range(2, logits.ndim))
    overlap, both = (probabilities * truth).sum(axes), (probabilities + truth).sum(axes)
    above = sum(overlap[k] / truth[:, k].sum() ** 2 for k in counted)
    below = sum(both[k] / truth[:, k].sum() ** 2 for k in counted)
    return 1 - 2 * above / below


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_equals_the_formula_for_any_number_of_axes(size):
    logits, mask = batch(*size)
    loss, expected = GeneralizedDice()(logits, mask), with_one_hot_masks(logits, mask)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.slow
def test_equals_monai():
    losses = pytest.importorskip("monai.losses")
    logits, mask = batch(5, 6, void=0.0)
    peer = losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(GeneralizedDice()(logits, mask), peer(logits, mask[:, None]))


def test_a_small_class_that_is_missed_costs_far_more_than_its_share_of_the_pixels():
    mask = torch.tensor([[1] * 1 + [0] * 9])
    logits = torch.tensor([[[100.0] * 10, [0.0] * 10]])  # class 0 everywhere
    # Overlaps 9 and 0, sums 9 + 10 and 1 + 0, weights 1/81 and 1.
    assert GeneralizedDice()(logits, mask) == pytest.approx(1 - 2 * (9 / 81) / (19 / 81 + 1))


def test_a_perfect_answer_costs_nothing():
    _, mask = batch(5, 6)
    logits = 1e4 * F.one_hot(mask.where(mask != 255, 0), 4).movedim(-1, 1).float()
    assert GeneralizedDice()(logits, mask) == pytest.approx(0, abs=1e-6)


def test_background_can_be_left_out():
    logits, mask = batch(5, 6)
    loss = GeneralizedDice(include_background=False)(logits, mask)
    torch.testing.assert_close(loss, with_one_hot_masks(logits, mask, (1, 2, 3)))


def test_classes_that_the_batch_lacks_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    loss, expected = GeneralizedDice()(logits, mask), with_one_hot_masks(logits, mask, (0, 1, 3))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize(("include_background", "label"), [(True, 255), (False, 255), (False, 0)])
def test_a_batch_without_a_class_that_counts_gives_zero_and_finite_gradients(include_background, label):
    logits, mask = batch(5, 6)
    loss = GeneralizedDice(include_background)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
def test_saturated_logits_one_class_and_one_pixel_give_finite_values_and_gradients(classes, size):
    logits, mask = batch(*size, classes=classes)
    for scores in (logits, 1e4 * logits, 1e4 * logits.sign() + 0 * logits):
        loss = GeneralizedDice()(scores, mask)
        assert -1e-6 <= loss <= 1
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(GeneralizedDice()(changed, mask), GeneralizedDice()(logits, mask))
    moved = GeneralizedDice(ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(moved, GeneralizedDice()(logits, mask))


def test_images_of_a_batch_are_summed_before_the_ratio():
    logits, mask = batch(5, 6)
    joined = logits.movedim(0, 1).flatten(1, 2)[None], mask.flatten(0, 1)[None]
    torch.testing.assert_close(GeneralizedDice()(*joined), GeneralizedDice()(logits, mask))
