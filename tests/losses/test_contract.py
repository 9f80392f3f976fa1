"""What every loss promises, whatever it measures."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from segwright.parts import build, list_parts

NAMES = list_parts("loss")

NUM_CLASSES = {"constrained_focal": 2}
"""Losses of a fixed number of classes: it weighs one foreground against the background."""

TREATS_CLASS_0_APART = {
    "border_cross_entropy",  # only gaps in the background have a border term
    "boundary",  # the background has no distances
    "constrained_focal",  # only the foreground has a weight
}

SEES_EMPTY_AXES = {"soft_boundary"}
"""Losses that an axis of one pixel changes by a little: its Gaussian ends at a radius, and a
disk weighs its columns otherwise than its middle line."""

few_examples = settings(max_examples=6, deadline=None, derandomize=True)


def all_but(names):
    return pytest.mark.parametrize("name", [name for name in NAMES if name not in names])


every_loss = all_but(())


def make(name, num_classes):
    """A loss by its defaults, half-way through a run; one that follows the training stands still."""
    loss = build("loss", name, {}, class_shares=[1 / num_classes] * num_classes).eval()
    if hasattr(loss, "anneal"):
        loss.anneal(0.5)
    return loss


def random_batch(name, shape, *, num_classes=3, void=0.2, seed=0):
    """Logits and mask of the shape (B, *S); in double precision, where the order of a sum does not show."""
    num_classes = NUM_CLASSES.get(name, num_classes)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], num_classes, *shape[1:], generator=generator, dtype=torch.float64)
    mask = torch.randint(num_classes, shape, generator=generator)
    mask[torch.rand(shape, generator=generator) < void] = 255
    return logits, mask


@st.composite
def batches(draw, name):
    """Batches of any number of images, axes and classes, with little, much or no void."""
    shape = draw(st.integers(1, 3)), *draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    void = draw(st.sampled_from([0.0, 0.2, 0.8]))
    return random_batch(name, shape, num_classes=draw(st.integers(1, 4)), void=void, seed=draw(st.integers(0, 999)))


def loss_and_gradient(name, logits, mask):
    logits = logits.detach().clone().requires_grad_()
    loss = make(name, logits.shape[1])(logits, mask)
    loss.backward()
    return loss.detach(), logits.grad


def assert_same(found, expected):
    """Equal up to what constants in single precision cost."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@every_loss
@few_examples
@given(data=st.data())
def test_logits_of_void_pixels_change_nothing_and_learn_nothing(name, data):
    logits, mask = data.draw(batches(name))
    void = (mask == 255)[:, None].expand_as(logits)
    loss, gradient = loss_and_gradient(name, logits, mask)
    assert not gradient[void].any()
    assert_same(loss_and_gradient(name, torch.where(void, 50 * logits.flip(1) + 7, logits), mask), (loss, gradient))


@every_loss
@few_examples
@given(data=st.data())
def test_the_order_of_images_does_not_matter(name, data):
    logits, mask = data.draw(batches(name))
    order = data.draw(st.permutations(range(len(mask))))
    loss, gradient = loss_and_gradient(name, logits, mask)
    assert_same(loss_and_gradient(name, logits[order], mask[order]), (loss, gradient[order]))


@all_but(TREATS_CLASS_0_APART)
@few_examples
@given(data=st.data())
def test_the_order_of_classes_does_not_matter(name, data):
    logits, mask = data.draw(batches(name))
    order = torch.tensor(data.draw(st.permutations(range(logits.shape[1]))))
    renumbered = order.argsort()[mask.where(mask != 255, 0)].where(mask != 255, 255)
    loss, gradient = loss_and_gradient(name, logits, mask)
    assert_same(loss_and_gradient(name, logits[:, order], renumbered), (loss, gradient[:, order]))


@every_loss
@few_examples
@given(data=st.data())
def test_turned_and_mirrored_images_cost_the_same(name, data):
    logits, mask = data.draw(batches(name))

    def turned(maps):
        """Spatial axes in the opposite order and direction."""
        kept = maps.ndim - mask.ndim + 1
        axes = tuple(range(kept, maps.ndim))
        return maps.flip(axes).permute(*range(kept), *reversed(axes))

    loss, gradient = loss_and_gradient(name, logits, mask)
    assert_same(loss_and_gradient(name, turned(logits), turned(mask)), (loss, turned(gradient)))


@all_but(SEES_EMPTY_AXES)
@few_examples
@given(data=st.data())
def test_an_axis_of_one_pixel_changes_nothing(name, data):
    logits, mask = data.draw(batches(name).filter(lambda batch: batch[1].ndim < 4))
    loss, gradient = loss_and_gradient(name, logits, mask)
    assert_same(loss_and_gradient(name, logits[:, :, None], mask[:, None]), (loss, gradient[:, :, None]))


@every_loss
@few_examples
@given(data=st.data())
def test_the_type_of_the_mask_and_the_order_in_memory_do_not_matter(name, data):
    logits, mask = data.draw(batches(name))
    channels_last = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    loss, gradient = loss_and_gradient(name, channels_last, mask.to(torch.uint8))
    expected_loss, expected_gradient = loss_and_gradient(name, logits, mask)
    assert torch.equal(loss, expected_loss)
    assert torch.equal(gradient, expected_gradient)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_single(name, dtype):
    logits, mask = random_batch(name, (2, 5, 6))
    loss, gradient = loss_and_gradient(name, logits.to(dtype), mask)
    expected_loss, expected_gradient = loss_and_gradient(name, logits.to(dtype).float(), mask)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected_loss)
    # A sum of several losses adds their gradients in half precision.
    torch.testing.assert_close(gradient, expected_gradient.to(dtype))


@every_loss
def test_autocast_does_not_reach_the_loss(name):
    logits, mask = random_batch(name, (2, 12, 13))
    logits = logits.float()
    expected = loss_and_gradient(name, logits, mask)
    logits.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = make(name, logits.shape[1])(logits, mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close((loss.detach(), gradient), expected, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("shape", [(2, 12), (2, 6, 8), (2, 4, 4, 6)], ids=str)
def test_the_surer_the_right_answer_the_lower_the_loss(name, shape):
    logits, mask = random_batch(name, shape)
    num_classes = logits.shape[1]
    stripes = (torch.arange(shape[-1]) * num_classes // shape[-1]).expand(shape).clone()  # each class has an inside
    answer = F.one_hot(stripes, num_classes).movedim(-1, 1).double()
    mask = stripes.masked_fill(mask == 255, 255)
    # Not surer: a loss with soft labels is lowest before 1.
    losses = [loss_and_gradient(name, sureness * answer, mask)[0].item() for sureness in (-2, 0, 1, 2)]
    assert losses == sorted(set(losses), reverse=True)


@every_loss
@pytest.mark.parametrize("shape", [(2, 7), (2, 5, 6), (2, 3, 4, 5)], ids=str)
def test_a_batch_of_void_costs_nothing_and_teaches_nothing(name, shape):
    logits, mask = random_batch(name, shape)
    loss, gradient = loss_and_gradient(name, logits, torch.full_like(mask, 255))
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every_loss
@pytest.mark.parametrize("present", [0, 1])
def test_classes_that_no_mask_has_do_no_harm(name, present):
    logits, mask = random_batch(name, (2, 5, 6), num_classes=4)
    loss, gradient = loss_and_gradient(name, logits, mask.where(mask == 255, present))
    assert loss.isfinite()
    assert gradient.isfinite().all()


@all_but(NUM_CLASSES)
def test_one_class_alone_costs_nothing_and_teaches_nothing(name):
    loss, gradient = loss_and_gradient(name, *random_batch(name, (2, 5, 6), num_classes=1))
    assert_same((loss, gradient), (torch.zeros_like(loss), torch.zeros_like(gradient)))


@every_loss
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_images_of_one_pixel_do_no_harm(name, axes):
    loss, gradient = loss_and_gradient(name, *random_batch(name, (2, *[1] * axes), void=0.0))
    assert loss.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_logits_far_from_zero_do_no_harm(name):
    logits, mask = random_batch(name, (2, 5, 6))
    loss, gradient = loss_and_gradient(name, 1e4 * logits.sign().float(), mask)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 4), (2, 2, 2, 3)], ids=str)
def test_gradients_are_those_of_differences(name, shape):
    logits, mask = random_batch(name, shape)
    loss = make(name, logits.shape[1])
    assert torch.autograd.gradcheck(lambda logits: loss(logits, mask), logits.requires_grad_(), fast_mode=True)


@every_loss
def test_a_mask_of_another_size_is_refused(name):
    logits, mask = random_batch(name, (2, 5, 6))
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        make(name, logits.shape[1])(logits, mask.transpose(1, 2))
