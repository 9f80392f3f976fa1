import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from segwright.losses.boundary import Boundary, signed_distances


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def by_all_pairs(labels, index, spacing):
    """Signed distance of each pixel to the border of one class."""
    places = np.argwhere(np.ones(labels.shape)) * np.asarray(spacing)  # N S
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)  # N N
    flat = labels.ravel()
    own, other = flat == index, (flat != index) & (flat != 255)
    if not own.any() or not other.any():
        return np.zeros(labels.shape)
    outside = apart[:, own].min(axis=1)
    inside = apart[:, other].min(axis=1)
    signed = np.where(own, min(spacing) - inside, outside) * (flat != 255)
    return signed.reshape(labels.shape)


def by_the_formula(logits, mask, spacing):
    maps = [[by_all_pairs(image, c, spacing) for c in range(1, logits.shape[1])] for image in mask.numpy()]
    distances = torch.tensor(np.array(maps), dtype=logits.dtype)  # B K-1 *S
    valid = (mask != 255)[:, None]
    return (logits.softmax(dim=1)[:, 1:] * distances * valid).sum() / (valid.sum() * (logits.shape[1] - 1))


def distances_of(row):
    """Distances of a one-dimensional image, by class."""
    classes, distances = signed_distances(np.array(row))
    return {index: distance.tolist() for index, distance in zip(classes.tolist(), distances, strict=True)}


def test_distances_grow_outside_and_fall_inside_from_zero_at_the_outermost_pixels():
    assert distances_of([0, 0, 1, 1, 1, 0]) == {1: [2, 1, 0, -1, 0, 1]}


def test_each_class_but_the_background_has_distances():
    assert distances_of([0, 1, 1, 2, 2, 2]) == {1: [1, 0, 0, 1, 2, 3], 2: [3, 2, 1, 0, -1, -2]}


def test_void_pixels_are_neither_in_a_class_nor_out_of_it():
    assert distances_of([0, 255, 1, 1, 1, 255, 255]) == {1: [2, 0, -1, -2, -3, 0, 0]}


def test_a_class_without_a_border_has_no_distances():
    assert distances_of([0, 0, 0]) == {}
    assert distances_of([1, 1, 255]) == {}
    assert distances_of([255, 255]) == {}


@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5)])
def test_equals_distances_between_all_pairs_for_any_number_of_axes(size):
    logits, mask = batch(*size)
    mask[1][mask[1] == 2] = 1  # the second image lacks a class
    loss, expected = Boundary(start=1.0)(logits, mask), by_the_formula(logits, mask, [1.0] * len(size))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize("spacing", [(0.5,), (0.5, 0.5), (2.0, 0.5), (3.0, 1.0, 0.7)])
def test_spacing_is_that_of_the_axes_in_their_order(spacing):
    logits, mask = batch(*(9, 7, 3)[: len(spacing)])
    loss = Boundary(start=1.0, spacing=spacing)(logits, mask)
    torch.testing.assert_close(loss, by_the_formula(logits, mask, spacing))


def test_gradients_are_those_of_finite_differences():
    logits, mask = batch(3, 4, classes=3)
    assert torch.autograd.gradcheck(lambda scores: Boundary(start=1.0)(scores, mask), logits.double(), fast_mode=True)


def square_in_a_frame():
    mask = torch.zeros(1, 16, 16, dtype=torch.long)
    mask[0, 4:12, 4:12] = 1
    return mask


def sure(mask):
    """Logits of an answer that is certain."""
    return 100.0 * torch.stack([mask == 0, mask == 1], dim=1)


def test_a_perfect_answer_costs_less_than_nothing_and_less_than_any_other():
    mask = square_in_a_frame()
    loss = Boundary(start=1.0)
    perfect = loss(sure(mask), mask)
    assert perfect < 0
    for answer in (mask.roll(1, dims=2), torch.ones_like(mask), torch.zeros_like(mask), 1 - mask):
        assert loss(sure(answer), mask) > perfect


def test_far_mistakes_cost_more_than_near_ones():
    mask = square_in_a_frame()
    near, far = mask.clone(), mask.clone()
    near[0, 3, 4] = far[0, 0, 0] = 1
    loss = Boundary(start=1.0)
    assert loss(sure(far), mask) > loss(sure(near), mask) > loss(sure(mask), mask)


def test_the_strength_grows_linearly_over_the_run():
    logits, mask = batch(6, 7)
    loss = Boundary(start=0.01, end=1.0)
    whole = Boundary(start=1.0)(logits, mask)
    torch.testing.assert_close(loss(logits, mask), 0.01 * whole)
    for progress, strength in ((0.0, 0.01), (0.5, 0.505), (1.0, 1.0)):
        loss.anneal(progress)
        torch.testing.assert_close(loss(logits, mask), strength * whole)


def test_the_strength_is_no_part_of_the_state():
    assert not Boundary().state_dict()


@pytest.mark.parametrize("label", [255, 0, 1])
def test_a_batch_without_borders_gives_zero_and_finite_gradients(label):
    logits, mask = batch(5, 6)
    loss = Boundary(start=1.0)(logits, torch.full_like(mask, label))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(6, 7)
    changed = torch.where(mask[:, None] == 255, 30.0 * torch.randn_like(logits), logits)
    assert torch.equal(Boundary()(changed, mask), Boundary()(logits, mask))


def test_another_ignore_label_is_taken():
    logits, mask = batch(6, 7)
    other = Boundary(ignore_label=-1)(logits, mask.where(mask != 255, -1))
    assert torch.equal(other, Boundary()(logits, mask))


@pytest.mark.parametrize("size", [(1,), (1, 1), (1, 1, 1)])
def test_one_pixel_has_no_border(size):
    logits, mask = batch(*size, void=0.0)
    assert Boundary(start=1.0)(logits, mask) == 0


def test_one_class_has_no_border():
    logits, mask = batch(5, 6, classes=1)
    loss = Boundary(start=1.0)(logits, mask)
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_saturated_logits_give_finite_values_and_gradients():
    logits, mask = batch(6, 7)
    scores = (1e4 * logits.detach()).requires_grad_()
    loss = Boundary(start=1.0)(scores, mask)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_half_precision_masks_of_bytes_and_other_layouts_are_taken():
    logits, mask = batch(6, 7)
    logits = logits.bfloat16()
    expected = Boundary()(logits.float(), mask)
    layout = mask.transpose(1, 2).contiguous().transpose(1, 2)
    loss = Boundary()(logits.to(memory_format=torch.channels_last), layout.to(torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": -0.1}, r"loss\.boundary\.start is -0\.1"),
        ({"end": float("nan")}, r"loss\.boundary\.end is nan"),
        ({"spacing": (1.0, 0.0)}, r"loss\.boundary\.spacing is \(1\.0, 0\.0\)"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        Boundary(**arguments)


def test_a_spacing_of_other_axes_is_refused():
    with pytest.raises(ValueError, match="2 axes"):
        Boundary(spacing=(1.0, 1.0, 1.0))(*batch(5, 6))


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        Boundary()(logits, mask.transpose(1, 2))
