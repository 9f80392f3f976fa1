import pytest
import torch
import torch.nn.functional as F

from segwright.losses.iou import IoU


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_one_hot_masks(logits, mask):
    """The loss of each class by the formula."""
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    probabilities = logits.softmax(dim=1) * valid[:, None]
    axes = (0, *range(2, logits.ndim))
    overlap = (probabilities * truth).sum(axes)
    return 1 - overlap / (probabilities.sum(axes) + truth.sum(axes) - overlap)


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_equals_the_formula_for_any_number_of_axes(size):
    logits, mask = batch(*size)
    loss, expected = IoU()(logits, mask), with_one_hot_masks(logits, mask).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.slow
def test_equals_monai():
    losses = pytest.importorskip("monai.losses")
    logits, mask = batch(5, 6, void=0.0)
    peer = losses.DiceLoss(to_onehot_y=True, softmax=True, jaccard=True, batch=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(IoU()(logits, mask), peer(logits, mask[:, None]))


def test_a_certain_answer_has_the_intersection_over_union_of_its_mask():
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    answer = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 0]])  # class 1: 2 of 6; class 0: 2 of 6
    logits = 100.0 * F.one_hot(answer, 2).movedim(-1, 1).float()
    assert IoU()(logits, mask) == pytest.approx(1 - 1 / 3)
    assert IoU()(1e4 * F.one_hot(mask, 2).movedim(-1, 1).float(), mask) == 0


def test_background_can_be_left_out():
    logits, mask = batch(5, 6)
    loss = IoU(include_background=False)(logits, mask)
    torch.testing.assert_close(loss, with_one_hot_masks(logits, mask)[1:].mean())


def test_classes_that_the_batch_lacks_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    torch.testing.assert_close(IoU()(logits, mask), with_one_hot_masks(logits, mask)[[0, 1, 3]].mean())


@pytest.mark.parametrize(("include_background", "label"), [(True, 255), (False, 255), (False, 0)])
def test_a_batch_without_a_class_that_counts_gives_zero_and_finite_gradients(include_background, label):
    logits, mask = batch(5, 6)
    loss = IoU(include_background)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
def test_saturated_logits_one_class_and_one_pixel_give_finite_values_and_gradients(classes, size):
    logits, mask = batch(*size, classes=classes)
    for scores in (logits, 1e4 * logits, 1e4 * logits.sign() + 0 * logits):
        loss = IoU()(scores, mask)
        assert 0 <= loss <= 1
        assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(IoU()(changed, mask), IoU()(logits, mask))
    moved = IoU(ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(moved, IoU()(logits, mask))
