import pytest
import torch
import torch.nn.functional as F

from segwright import parts
from segwright.losses.focal import Focal
from segwright.losses.iou import IoU
from segwright.losses.ms_ssim import MultiScaleSSIM
from segwright.losses.unet3plus_hybrid import UNet3PlusHybrid


def batch(*size, classes=3, void=0.2, ignore_label=255):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = ignore_label
    return logits, mask


@pytest.mark.parametrize("size", [(13,), (12, 25), (4, 5, 6)])
def test_is_the_plain_sum_of_its_three_terms(size):
    logits, mask = batch(*size)
    expected = sum(term(logits, mask) for term in (Focal(), MultiScaleSSIM(), IoU()))
    torch.testing.assert_close(UNet3PlusHybrid()(logits, mask), expected)


def test_a_perfect_answer_costs_nothing():
    _, mask = batch(25, 25, void=0.0)
    logits = 100.0 * F.one_hot(mask, 3).movedim(-1, 1).float()
    assert UNet3PlusHybrid()(logits, mask) == pytest.approx(0, abs=1e-6)


def test_the_ignore_label_reaches_all_terms():
    logits, mask = batch(12, 13, ignore_label=7)
    changed = torch.where(mask[:, None] == 7, 3.0, logits)
    loss = UNet3PlusHybrid(ignore_label=7)
    torch.testing.assert_close(loss(changed, mask), loss(logits, mask))


def test_a_batch_of_void_alone_gives_zero_and_zero_gradients():
    logits, mask = batch(12, 13, void=1.1)
    loss = UNet3PlusHybrid()(logits, mask)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_recipe_gives_it_no_options():
    assert parts.check_arguments("loss", "unet3plus_hybrid", {}) == {}
