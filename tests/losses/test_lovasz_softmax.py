from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from segwright.losses.lovasz_softmax import LovaszSoftmax, jaccard_slopes


def batch(*size, classes=4, void=0.2, images=2):
    torch.manual_seed(0)
    logits = 2 * torch.randn(images, classes, *size, dtype=torch.float64)
    mask = torch.randint(0, classes, (images, *size))
    mask[torch.rand(images, *size) < void] = 255
    return logits.requires_grad_(), mask


def intersection_over_union(mask, answer):
    """Of each of four classes, of the pixels that are not void."""
    valid = mask != 255
    own, answered = (F.one_hot(labels[valid], 4).bool() for labels in (mask, answer))  # N 4
    return (own & answered).sum(dim=0) / (own | answered).sum(dim=0)


def jaccard_loss(region, wrong):
    """1 - IoU of a set and of what is predicted for it when the wrong pixels alone are wrong."""
    predicted = region ^ wrong
    return 1 - len(region & predicted) / len(region | predicted)


def by_level_sets(logits, mask):
    """The Lovász extension as the integral over t from 0 to 1 of the loss of the set of errors above t."""
    valid = mask != 255
    probabilities = logits.softmax(dim=1).movedim(1, -1)[valid].tolist()
    labels = mask[valid].tolist()
    losses = []
    for index in sorted(set(labels)):
        region = {i for i, label in enumerate(labels) if label == index}
        errors = [1 - p[index] if i in region else p[index] for i, p in enumerate(probabilities)]
        levels = sorted({0.0, *errors})
        losses.append(
            sum(
                (upper - lower) * jaccard_loss(region, {i for i, error in enumerate(errors) if error > lower})
                for lower, upper in pairwise(levels)
            )
        )
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_equals_the_integral_over_level_sets(size):
    logits, mask = batch(*size)
    assert LovaszSoftmax()(logits, mask).item() == pytest.approx(by_level_sets(logits, mask), rel=1e-12)


def test_classes_that_no_mask_has_do_not_count():
    logits, mask = batch(5, 6)
    mask[mask == 2] = 1
    assert LovaszSoftmax()(logits, mask).item() == pytest.approx(by_level_sets(logits, mask), rel=1e-12)


def test_images_can_count_one_by_one():
    logits, mask = batch(5, 6, images=3)
    mask[0][mask[0] == 2] = 1  # the classes of the images differ
    mask[2] = 255  # an image of void alone does not count
    expected = [by_level_sets(logits[i : i + 1], mask[i : i + 1]) for i in range(2)]
    assert LovaszSoftmax(per_image=True)(logits, mask).item() == pytest.approx(sum(expected) / 2, rel=1e-12)
    assert LovaszSoftmax()(logits, mask).item() == pytest.approx(by_level_sets(logits, mask), rel=1e-12)


@pytest.mark.parametrize("per_image", [False, True])
def test_gradients_are_those_of_differences(per_image):
    logits, mask = batch(3, 4)
    assert torch.autograd.gradcheck(lambda x: LovaszSoftmax(per_image)(x, mask), logits)


@pytest.mark.parametrize(
    ("order", "slopes"), [([0, 1, 2], [1 / 2, 1 / 6, 1 / 3]), ([2, 0, 1], [1 / 3, 1 / 2, 1 / 6])], ids=str
)
def test_the_worked_example_has_the_slopes_of_the_authors(order, slopes):
    errors, own = torch.tensor([0.9, 0.5, 0.2]), torch.tensor([True, False, True])
    found = jaccard_slopes(errors[order], own[order], torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor(slopes))


def test_slopes_sum_to_one_and_are_zero_at_void_pixels():
    torch.manual_seed(0)
    errors, own, void = torch.rand(50), torch.rand(50) < 0.3, torch.rand(50) < 0.3
    slopes = jaccard_slopes(errors, own & ~void, void)
    assert slopes.sum() == pytest.approx(1)
    assert not slopes[void].any()
    assert torch.equal(slopes[~void], jaccard_slopes(errors[~void], own[~void], void[~void]))


def test_a_class_without_pixels_has_no_slopes():
    none = torch.zeros(50, dtype=torch.bool)
    assert not jaccard_slopes(torch.rand(50), none, none).any()


@pytest.mark.parametrize("per_image", [False, True])
def test_sure_answers_cost_one_minus_their_mean_iou(per_image):
    _, mask = batch(9, 8)
    answer = torch.randint(0, 4, mask.shape)
    logits = 1e4 * F.one_hot(answer, 4).movedim(-1, 1).float()
    pairs = zip(mask, answer, strict=True) if per_image else [(mask, answer)]
    expected = torch.stack([1 - intersection_over_union(*pair).mean() for pair in pairs]).mean()
    torch.testing.assert_close(LovaszSoftmax(per_image)(logits, mask), expected)


def test_a_perfect_answer_costs_nothing():
    _, mask = batch(5, 6)
    logits = 1e4 * F.one_hot(mask.where(mask != 255, 0), 4).movedim(-1, 1).float()
    assert LovaszSoftmax()(logits, mask) == 0


@pytest.mark.parametrize("per_image", [False, True])
def test_a_batch_of_void_gives_zero_and_finite_gradients(per_image):
    logits, mask = batch(5, 6)
    loss = LovaszSoftmax(per_image)(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_label_of_void_that_is_also_the_number_of_a_class_is_void():
    logits, mask = batch(5, 6, void=0.0)
    expected = LovaszSoftmax()(logits, mask.masked_fill(mask == 3, 255))
    torch.testing.assert_close(LovaszSoftmax(ignore_label=3)(logits, mask), expected)


def test_single_precision_keeps_the_slopes_of_many_pixels():
    torch.manual_seed(0)
    errors, own, void = torch.rand(300_000), torch.rand(300_000) < 0.3, torch.zeros(300_000, dtype=torch.bool)
    slopes = jaccard_slopes(errors, own, void)
    torch.testing.assert_close(slopes.double(), jaccard_slopes(errors.double(), own, void), rtol=1e-6, atol=0)
