import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from segwright.losses.dice import Dice


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_one_hot_masks(logits, mask):
    """The same by the formula."""
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    probabilities = logits.softmax(dim=1) * valid[:, None]
    axes = (0, *range(2, logits.ndim))
    dice = 2 * (probabilities * truth).sum(axes) / (probabilities.sum(axes) + truth.sum(axes))
    return 1 - dice


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_equals_the_formula_for_any_number_of_axes(size):
    logits, mask = batch(*size)
    loss, expected = Dice()(logits, mask), with_one_hot_masks(logits, mask).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_background_can_be_left_out():
    logits, mask = batch(5, 6)
    torch.testing.assert_close(
        Dice(include_background=False)(logits, mask), with_one_hot_masks(logits, mask)[1:].mean()
    )


def test_a_perfect_answer_costs_nothing():
    _, mask = batch(5, 6, void=0.0)
    logits = 100.0 * F.one_hot(mask, 4).movedim(-1, 1).float()
    assert Dice()(logits, mask) == pytest.approx(0, abs=1e-6)


def test_classes_that_the_batch_lacks_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    torch.testing.assert_close(Dice()(logits, mask), with_one_hot_masks(logits, mask)[[0, 1, 3]].mean())


@pytest.mark.parametrize(("include_background", "label"), [(True, 255), (False, 255), (False, 0)])
def test_a_batch_without_a_class_that_counts_gives_zero_and_finite_gradients(include_background, label):
    logits, mask = batch(5, 6)
    loss = Dice(include_background)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(Dice()(changed, mask), Dice()(logits, mask))


def test_half_precision_masks_of_bytes_and_channels_last_are_taken():
    logits, mask = batch(5, 6)
    logits = logits.bfloat16()
    expected = Dice()(logits.float(), mask)
    loss = Dice()(logits.to(memory_format=torch.channels_last), mask.to(torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_images_of_a_batch_are_summed_before_the_ratio():
    logits, mask = batch(5, 6)
    joined = logits.movedim(0, 1).flatten(1, 2)[None], mask.flatten(0, 1)[None]
    torch.testing.assert_close(Dice()(*joined), Dice()(logits, mask))


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        Dice()(logits, mask.transpose(1, 2))
