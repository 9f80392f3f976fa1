import pytest
import torch
import torch.nn.functional as F

from segwright.losses.dice import Dice
from segwright.losses.tversky import Tversky

GAMMAS = [0.5, 1.0, 4 / 3, 10.0]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_one_hot_masks(logits, mask, alpha, beta, gamma=1.0):
    """The loss of each class by the formula."""
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), logits.shape[1]).movedim(-1, 1)
    probabilities = logits.softmax(dim=1)
    axes = (0, *range(2, logits.ndim))
    hits, false_positives, false_negatives = (
        (valid[:, None] * product).sum(axes)
        for product in (probabilities * truth, probabilities * (1 - truth), (1 - probabilities) * truth)
    )
    return (1 - hits / (hits + alpha * false_positives + beta * false_negatives)) ** (1 / gamma)


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.7, 0.3), (0.0, 2.0), (3.0, 0.1)])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_equals_the_formula_for_any_number_of_axes(size, alpha, beta, gamma):
    logits, mask = batch(*size)
    loss = Tversky(alpha, beta, gamma=gamma)(logits, mask)
    expected = with_one_hot_masks(logits, mask, alpha, beta, gamma).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_alpha_weighs_false_positives_and_beta_false_negatives():
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    answer = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 0]])  # 2 hits, 3 false negatives, 1 false positive
    logits = 100.0 * F.one_hot(answer, 2).movedim(-1, 1).float()
    loss = Tversky(0.25, 0.75, include_background=False)(logits, mask)
    assert loss == pytest.approx(1 - 2 / (2 + 0.25 * 1 + 0.75 * 3))


@pytest.mark.slow
def test_equals_monai():
    losses = pytest.importorskip("monai.losses")
    logits, mask = batch(5, 6, void=0.0)
    peer = losses.TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, batch=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(Tversky(0.3, 0.7)(logits, mask), peer(logits, mask[:, None]))


@pytest.mark.parametrize("include_background", [True, False])
def test_equal_halves_give_dice(include_background):
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    loss = Tversky(0.5, 0.5, include_background=include_background)(logits, mask)
    expected = Dice(include_background)(logits, mask)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_background_can_be_left_out():
    logits, mask = batch(5, 6)
    loss = Tversky(include_background=False)(logits, mask)
    torch.testing.assert_close(loss, with_one_hot_masks(logits, mask, 0.3, 0.7)[1:].mean())


def test_classes_that_the_batch_lacks_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    loss = Tversky(gamma=4 / 3)(logits, mask)
    torch.testing.assert_close(loss, with_one_hot_masks(logits, mask, 0.3, 0.7, 4 / 3)[[0, 1, 3]].mean())


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_perfect_answer_costs_nothing_and_has_finite_gradients(gamma):
    _, mask = batch(5, 6)
    logits = 1e4 * F.one_hot(mask.where(mask != 255, 0), 4).movedim(-1, 1).float()
    logits.requires_grad_()
    loss = Tversky(gamma=gamma)(logits, mask)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("include_background", "label"), [(True, 255), (False, 255), (False, 0)])
def test_a_batch_without_a_class_that_counts_gives_zero_and_finite_gradients(include_background, label):
    logits, mask = batch(5, 6)
    loss = Tversky(gamma=4 / 3, include_background=include_background)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
def test_saturated_logits_one_class_and_one_pixel_give_finite_values_and_gradients(gamma, classes, size):
    logits, mask = batch(*size, classes=classes)
    for scores in (logits, 1e4 * logits, 1e4 * logits.sign() + 0 * logits):
        loss = Tversky(gamma=gamma)(scores, mask)
        assert 0 <= loss <= 1
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(Tversky()(changed, mask), Tversky()(logits, mask))
    moved = Tversky(ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(moved, Tversky()(logits, mask))


@pytest.mark.parametrize("gamma", [1.0, 4 / 3])
def test_gradients_are_those_of_finite_differences(gamma):
    logits, mask = batch(3, 4)
    torch.autograd.gradcheck(
        lambda x: Tversky(gamma=gamma)(x, mask), logits.detach().double().requires_grad_(), fast_mode=True
    )


def test_images_of_a_batch_are_summed_before_the_ratio():
    logits, mask = batch(5, 6)
    joined = logits.movedim(0, 1).flatten(1, 2)[None], mask.flatten(0, 1)[None]
    torch.testing.assert_close(Tversky()(*joined), Tversky()(logits, mask))


@pytest.mark.parametrize(
    "arguments", [{"alpha": -0.1}, {"beta": 0.0}, {"gamma": 0.0}, {"gamma": float("nan")}, {"alpha": float("inf")}]
)
def test_arguments_out_of_range_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"loss.tversky.{name} is .*; try"):
        Tversky(**arguments)
