import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from segwright.losses.dice import Dice

OPTIONS = [{}, {"per_image": True}, {"squared": True}, {"per_image": True, "squared": True}]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def with_one_hot_masks(logits, mask, power=1):
    """The same by the formula."""
    valid = mask != 255
    truth = F.one_hot(mask.where(valid, 0), logits.shape[1]).movedim(-1, 1) * valid[:, None]
    probabilities = logits.softmax(dim=1) * valid[:, None]
    axes = (0, *range(2, logits.ndim))
    dice = 2 * (probabilities * truth).sum(axes) / ((probabilities**power).sum(axes) + truth.sum(axes))
    return 1 - dice


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("power", [1, 2])
def test_equals_the_formula_for_any_number_of_axes(size, power):
    logits, mask = batch(*size)
    loss, expected = Dice(squared=power == 2)(logits, mask), with_one_hot_masks(logits, mask, power).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize("power", [1, 2])
def test_sums_of_each_image_are_averaged_over_the_classes_that_it_has(power):
    logits, mask = batch(5, 6)
    mask[0][mask[0] == 2] = 1
    first, second = (with_one_hot_masks(logits[i : i + 1], mask[i : i + 1], power) for i in range(2))
    loss, expected = (
        Dice(per_image=True, squared=power == 2)(logits, mask),
        torch.cat([first[[0, 1, 3]], second]).mean(),
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_an_all_void_image_does_not_change_the_mean_over_images():
    logits, mask = batch(5, 6)
    longer = torch.cat([logits, logits[:1]]), torch.cat([mask, torch.full_like(mask[:1], 255)])
    torch.testing.assert_close(Dice(per_image=True)(*longer), Dice(per_image=True)(logits, mask))


@pytest.mark.slow
def test_squares_over_each_image_equal_monai():
    losses = pytest.importorskip("monai.losses")
    logits, mask = batch(5, 6, void=0.0)
    peer = losses.DiceLoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=0)
    torch.testing.assert_close(Dice(per_image=True, squared=True)(logits, mask), peer(logits, mask[:, None]))


def test_background_can_be_left_out():
    logits, mask = batch(5, 6)
    torch.testing.assert_close(
        Dice(include_background=False)(logits, mask), with_one_hot_masks(logits, mask)[1:].mean()
    )


@pytest.mark.parametrize("options", OPTIONS)
def test_a_perfect_answer_costs_nothing(options):
    _, mask = batch(5, 6, void=0.0)
    logits = 100.0 * F.one_hot(mask, 4).movedim(-1, 1).float()
    assert Dice(**options)(logits, mask) == pytest.approx(0, abs=1e-6)


def test_classes_that_the_batch_lacks_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    torch.testing.assert_close(Dice()(logits, mask), with_one_hot_masks(logits, mask)[[0, 1, 3]].mean())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("include_background", "label"), [(True, 255), (False, 255), (False, 0)])
def test_a_batch_without_a_class_that_counts_gives_zero_and_finite_gradients(options, include_background, label):
    logits, mask = batch(5, 6)
    loss = Dice(include_background, **options)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("classes", "size"), [(4, (5, 6)), (1, (5, 6)), (4, (1, 1))])
def test_saturated_logits_one_class_and_one_pixel_give_finite_gradients(options, classes, size):
    logits, mask = batch(*size, classes=classes)
    (Dice(**options)(1e4 * logits.sign() + 0 * logits, mask) + Dice(**options)(logits, mask)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("options", OPTIONS)
def test_void_pixels_do_not_change_the_loss(options):
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    torch.testing.assert_close(Dice(**options)(changed, mask), Dice(**options)(logits, mask))


def test_half_precision_masks_of_bytes_and_channels_last_are_taken():
    logits, mask = batch(5, 6)
    logits = logits.bfloat16()
    expected = Dice()(logits.float(), mask)
    loss = Dice()(logits.to(memory_format=torch.channels_last), mask.to(torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_sums_beyond_the_range_of_half_precision_are_taken():
    mask = torch.zeros(1, 300, 300, dtype=torch.uint8)  # 90 000 pixels; half precision ends at 65 504
    assert Dice()(torch.zeros(1, 2, 300, 300, dtype=torch.float16), mask) == pytest.approx(1 - 2 * 0.5 / 1.5)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_those_of_finite_differences(options):
    logits, mask = batch(3, 4)
    torch.autograd.gradcheck(
        lambda x: Dice(**options)(x, mask), logits.detach().double().requires_grad_(), fast_mode=True
    )


def test_images_of_a_batch_are_summed_before_the_ratio():
    logits, mask = batch(5, 6)
    joined = logits.movedim(0, 1).flatten(1, 2)[None], mask.flatten(0, 1)[None]
    torch.testing.assert_close(Dice()(*joined), Dice()(logits, mask))


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        Dice()(logits, mask.transpose(1, 2))
