import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import ndimage

from segwright.layers.class_weights import class_weights
from segwright.losses.cross_entropy import CrossEntropy
from segwright.losses.soft_boundary import SoftBoundary, soften

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def soft_labels(mask, num_classes, sigma):
    """Labels of all pixels, one map a class; those that are not near a border are sharp."""
    near, shares = soften(mask, num_classes, sigma)
    labels = one_hot(mask, num_classes)
    labels.movedim(1, -1)[near] = shares
    return labels


def by_scipy(mask, num_classes, sigma):
    """One-hot masks without void, convolved and divided by their sum."""
    sides = [np.arange(-int(3 * sigma), int(3 * sigma) + 1)] * (mask.ndim - 1)
    squared = sum(offset**2 for offset in np.meshgrid(*sides, indexing="ij"))
    kernel = np.exp(-squared / (2 * sigma**2)) * (squared <= 9 * sigma**2)
    maps = [
        [ndimage.convolve((image == index).astype(float), kernel, mode="nearest") for index in range(num_classes)]
        for image in mask.numpy()
    ]
    blurred = torch.from_numpy(np.array(maps))  # B K *S
    total = blurred.sum(dim=1, keepdim=True)
    return blurred / total.where(total > 0, 1) * (mask != 255)[:, None]


def one_hot(mask, num_classes):
    return torch.stack([mask == index for index in range(num_classes)], dim=1).float()


@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5), (1, 8)])
@pytest.mark.parametrize("sigma", [0.5, 0.75, 1.0, 2.5])
def test_labels_equal_normalized_convolution_for_any_number_of_axes(size, sigma):
    _, mask = batch(*size)
    torch.testing.assert_close(soft_labels(mask, 4, sigma).double(), by_scipy(mask, 4, sigma), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 0.75, 1.0])
def test_labels_sum_to_one_and_void_has_none(sigma):
    _, mask = batch(8, 9)
    labels = soft_labels(mask, 4, sigma)
    assert (labels >= 0).all()
    torch.testing.assert_close(labels.sum(dim=1), (mask != 255).float())


@pytest.mark.parametrize("sigma", [0.5, 0.75, 1.0])
def test_nothing_changes_farther_than_three_sigma_from_a_border(sigma):
    mask = torch.zeros(1, 30, 30, dtype=torch.long)
    mask[0, 12:, 9:] = 1
    mask[0, 20:, 20:] = 255
    is_one, is_zero = (mask[0] == 1).numpy(), (mask[0] == 0).numpy()
    # To the nearest pixel of the other class.
    distance = np.where(is_one, ndimage.distance_transform_edt(~is_zero), ndimage.distance_transform_edt(~is_one))
    far = torch.from_numpy(distance > 3 * sigma)
    valid = torch.from_numpy(is_one | is_zero)
    labels, sharp = soft_labels(mask, 2, sigma)[0], one_hot(mask, 2)[0]
    assert torch.equal(labels[:, far & valid], sharp[:, far & valid])
    assert (labels[:, ~far & valid] < 1).all()


def test_beside_a_straight_border_labels_are_those_of_the_gaussian():
    mask = torch.tensor([[0] * 6 + [1] * 6])
    labels = soft_labels(mask, 2, 0.75)[0, 1]
    one, two = np.exp(-0.5 / 0.75**2), np.exp(-2 / 0.75**2)
    whole = 1 + 2 * (one + two)
    expected = torch.zeros(12)
    expected[4:8] = torch.tensor([two, one + two, 1 + one + two, 1 + 2 * one + two]) / whole
    expected[8:] = 1
    torch.testing.assert_close(labels, expected)


def test_void_does_not_leak_into_its_neighbors():
    mask = torch.tensor([[1, 1, 1, 255, 255, 0, 0, 0]])
    torch.testing.assert_close(soft_labels(mask, 2, 0.75), one_hot(mask, 2))


def test_the_image_goes_on_past_its_edges():
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    longer = torch.tensor([[0] * 5 + [1] * 9])
    torch.testing.assert_close(soft_labels(mask, 2, 1.0)[..., :5], soft_labels(longer, 2, 1.0)[..., 4:9])


@pytest.mark.parametrize("size", [(9,), (6, 7), (3, 4, 5)])
@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_equals_the_formula_for_any_number_of_axes(size, balance):
    logits, mask = batch(*size)
    loss = SoftBoundary(0.75, balance, class_shares=SHARES)(logits, mask)
    rule = class_weights(balance, SHARES)
    weights = (torch.ones(4) if rule is None else rule)[mask.where(mask != 255, 0)] * (mask != 255)
    costs = -(by_scipy(mask, 4, 0.75).float() * logits.log_softmax(dim=1)).sum(dim=1)
    expected = (weights * costs).sum() / weights.sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("balance", ["none", "median_frequency", "inverse_log"])
def test_equals_cross_entropy_as_sigma_goes_to_zero(sigma, balance):
    logits, mask = batch(6, 7)
    loss = SoftBoundary(sigma, balance, class_shares=SHARES)(logits, mask)
    torch.testing.assert_close(loss, CrossEntropy(balance, class_shares=SHARES)(logits, mask))


def test_the_answer_that_costs_least_is_the_soft_label():
    _, mask = batch(6, 7)
    logits = soft_labels(mask, 4, 0.75).clamp(min=1e-30).log().requires_grad_()
    SoftBoundary(0.75)(logits, mask).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-7, rtol=0)


def test_gradients_are_those_of_finite_differences():
    logits, mask = batch(4, 5)
    assert torch.autograd.gradcheck(lambda scores: SoftBoundary()(scores, mask), logits.double(), fast_mode=True)


@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_an_all_void_batch_gives_zero_and_finite_gradients(balance):
    logits, mask = batch(5, 6)
    loss = SoftBoundary(balance=balance, class_shares=SHARES)(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(6, 7)
    changed = torch.where(mask[:, None] == 255, 100.0, logits)
    assert torch.equal(SoftBoundary()(changed, mask), SoftBoundary()(logits, mask))


def test_another_ignore_label_is_taken():
    logits, mask = batch(6, 7)
    other = SoftBoundary(balance="inverse_log", class_shares=SHARES, ignore_label=-1)
    loss = SoftBoundary(balance="inverse_log", class_shares=SHARES)
    assert torch.equal(other(logits, mask.where(mask != 255, -1)), loss(logits, mask))


@pytest.mark.parametrize(("size", "classes"), [((1,), 3), ((1, 1), 3), ((1, 1, 1), 3), ((5, 6), 1)])
def test_one_pixel_and_one_class_equal_cross_entropy(size, classes):
    logits, mask = batch(*size, classes=classes, void=0.0)
    torch.testing.assert_close(SoftBoundary()(logits, mask), CrossEntropy()(logits, mask))


def test_saturated_logits_give_finite_values_and_gradients():
    logits, mask = batch(6, 7)
    scores = (1e4 * logits.detach()).requires_grad_()
    loss = SoftBoundary()(scores, mask)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_half_precision_masks_of_bytes_and_channels_last_are_taken():
    logits, mask = batch(6, 7)
    logits = logits.bfloat16()
    expected = SoftBoundary()(logits.float(), mask)
    loss = SoftBoundary()(logits.to(memory_format=torch.channels_last), mask.to(torch.uint8))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_weights_are_no_part_of_the_state():
    assert not SoftBoundary(balance="inverse_log", class_shares=SHARES).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"sigma": -0.5}, r"loss\.soft_boundary\.sigma is -0\.5"), ({"balance": "inverse_log"}, "class_shares")],
)
def test_a_wrong_value_is_refused_with_its_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        SoftBoundary(**arguments)


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        SoftBoundary()(logits, mask.transpose(1, 2))
