import math

import pytest
import torch

from segwright.losses.constrained_focal import ConstrainedFocal
from segwright.losses.cross_entropy import CrossEntropy


def random_logits(mask):
    torch.manual_seed(0)
    return torch.randn(mask.shape[0], 2, *mask.shape[1:])


def costs(logits, mask):
    """-log p_y of each pixel; mask without void."""
    return -logits.log_softmax(dim=1).gather(1, mask[:, None])[:, 0]


def weights(mask, loss):
    """Weight of each pixel, read off the gradient at p = 1/2, which is half the weight over the number of pixels."""
    logits = torch.zeros(mask.shape[0], 2, *mask.shape[1:], dtype=torch.float64, requires_grad=True)
    loss(logits, mask).backward()
    return logits.grad[:, 1].abs() * 2 * (mask != 255).sum()


def test_as_much_foreground_as_background_gives_cross_entropy():
    mask = torch.tensor([[[0, 1, 1], [0, 0, 1]]])
    logits = random_logits(mask)
    torch.testing.assert_close(ConstrainedFocal()(logits, mask), CrossEntropy()(logits, mask))


@pytest.mark.parametrize("border_px", [0, 3])
def test_a_batch_without_foreground_gives_cross_entropy(border_px):
    mask = torch.zeros(2, 5, 6, dtype=torch.long)
    logits = random_logits(mask)
    torch.testing.assert_close(ConstrainedFocal(border_px=border_px)(logits, mask), CrossEntropy()(logits, mask))


@pytest.mark.parametrize(("beta", "weight"), [(2.0, 3.0), (1.0, 9.0), (4.0, math.sqrt(3))])
def test_nine_background_pixels_for_each_of_the_foreground_weigh_it_by_the_root_of_nine(beta, weight):
    mask = torch.zeros(1, 4, 5, dtype=torch.long)
    mask[0, 1, 2:4] = 1
    logits = random_logits(mask)
    expected = (torch.where(mask == 1, weight, 1.0) * costs(logits, mask)).mean()  # over pixels, not over weights
    torch.testing.assert_close(ConstrainedFocal(beta)(logits, mask), expected)


def test_numbers_are_those_of_the_whole_batch():
    mask = torch.zeros(2, 2, 5, dtype=torch.long)
    mask[0, 0, :4] = 1  # 4 of 20 pixels of the batch, 4 of 10 of the first image
    expected = torch.where(mask == 1, 2.0, 1.0).double()
    torch.testing.assert_close(weights(mask, ConstrainedFocal()), expected)


def test_void_pixels_have_no_weight_and_are_not_counted():
    mask = torch.zeros(1, 4, 10, dtype=torch.long)
    mask[0, 0, :4] = 1
    mask[0, 2:] = 255
    expected = torch.where(mask == 1, 2.0, 1.0).double().masked_fill(mask == 255, 0)
    torch.testing.assert_close(weights(mask, ConstrainedFocal()), expected)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_border_lies_three_pixels_away_along_each_axis(axes):
    mask = torch.zeros(1, *[9] * axes, dtype=torch.long)
    mask[(0, *[4] * axes)] = 1
    heavy = (mask == 1).clone()
    for axis in range(axes):
        for place in (1, 7):
            heavy[(0, *[place if i == axis else 4 for i in range(axes)])] = True
    weight = math.sqrt(9**axes - 1)  # from the mask, not from the larger region
    expected = torch.where(heavy, weight, 1.0).double()
    torch.testing.assert_close(weights(mask, ConstrainedFocal(border_px=3)), expected)


def test_the_border_ends_with_the_image():
    mask = torch.zeros(4, 9, 9, dtype=torch.long)
    mask[0, 8, 0] = 1  # neither on the other side nor in another image
    found = weights(mask, ConstrainedFocal(border_px=3)) > 1.5
    assert {tuple(place) for place in found.nonzero().tolist()} == {(0, 8, 0), (0, 5, 0), (0, 8, 3)}


@pytest.mark.parametrize("border_px", [2, 3, 100])
def test_an_image_smaller_than_the_border_has_none(border_px):
    mask = torch.tensor([[[1, 0], [0, 0]]])
    torch.testing.assert_close(weights(mask, ConstrainedFocal(border_px=border_px)), weights(mask, ConstrainedFocal()))


def test_the_border_remains_background():
    mask = torch.zeros(1, 1, 9, dtype=torch.long)
    mask[0, 0, 4] = 1
    logits = random_logits(mask)
    heavy = torch.tensor([[[False, True, False, False, True, False, False, True, False]]])
    expected = (torch.where(heavy, math.sqrt(8), 1.0) * costs(logits, mask)).mean()
    torch.testing.assert_close(ConstrainedFocal(border_px=3)(logits, mask), expected)


def test_void_gives_no_weight_to_its_border():
    mask = torch.zeros(1, 1, 9, dtype=torch.long)
    mask[0, 0, 4] = 255
    mask[0, 0, 0] = 1
    expected = torch.tensor([[[math.sqrt(7), 1, 1, math.sqrt(7), 0, 1, 1, 1, 1]]], dtype=torch.float64)
    torch.testing.assert_close(weights(mask, ConstrainedFocal(border_px=3)), expected)


def test_a_batch_of_foreground_alone_teaches_nothing():
    mask = torch.ones(1, 3, 4, dtype=torch.long)
    assert ConstrainedFocal()(random_logits(mask), mask) == 0


def test_a_probability_of_zero_costs_no_more_than_that_of_the_smallest_number_added():
    mask = torch.tensor([[0, 1]])
    logits = torch.tensor([[[-1e4, 1e4], [1e4, -1e4]]])
    torch.testing.assert_close(ConstrainedFocal()(logits, mask), torch.tensor(-math.log(1e-8)))


@pytest.mark.parametrize("classes", [1, 3])
def test_other_than_two_classes_are_refused(classes):
    with pytest.raises(ValueError, match=f"is for 2 classes, but the logits have {classes}; try"):
        ConstrainedFocal()(torch.zeros(1, classes, 2, 3), torch.zeros(1, 2, 3, dtype=torch.long))


@pytest.mark.parametrize("arguments", [{"beta": 0.0}, {"beta": -2.0}, {"border_px": -1}], ids=str)
def test_senseless_values_are_refused_with_their_key(arguments):
    with pytest.raises(ValueError, match=rf"loss\.constrained_focal\.{next(iter(arguments))} is .*; try"):
        ConstrainedFocal(**arguments)
