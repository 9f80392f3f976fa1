import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import ndimage
from skimage import measure

from segwright.losses.border_cross_entropy import BorderCrossEntropy, border_term
from segwright.losses.cross_entropy import CrossEntropy

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


def blobs(*size, seed=0, void=0.05):
    """Masks of three classes with several instances each and void here and there."""
    generator = np.random.default_rng(seed)
    heights = ndimage.gaussian_filter(generator.normal(size=size), 1.5)
    kinds = ndimage.gaussian_filter(generator.normal(size=size), 2.0)
    labels = np.where(heights > np.quantile(heights, 0.6), np.where(kinds > 0, 2, 1), 0)
    labels[generator.random(size) < void] = 255
    return labels


def by_all_instances(labels, sigma):
    """The border term from the distances to every instance."""
    distances = []
    for index in (1, 2):
        parts = measure.label(labels == index, connectivity=labels.ndim)
        distances += [ndimage.distance_transform_edt(parts != number) for number in range(1, parts.max() + 1)]
    if len(distances) < 2:
        return np.zeros(labels.shape)
    first, second = np.sort(np.stack(distances), axis=0)[:2]
    return np.where(labels == 0, np.exp(-((first + second) ** 2) / (2 * sigma**2)), 0)


def row_with_a_gap(width):
    return np.array([1] * 5 + [0] * width + [1] * 5)


def test_a_gap_of_ten_pixels_between_borders_adds_what_the_paper_adds():
    term = border_term(row_with_a_gap(9), sigma=5.0)  # d1 + d2 = 10 at each pixel of the gap
    np.testing.assert_allclose(1 + 10 * term[5:14], 1 + 1.3534, atol=1e-4)
    assert not term[:5].any()
    assert not term[14:].any()


def test_the_border_weight_is_the_limit_of_narrow_gaps():
    narrow = border_term(row_with_a_gap(1), sigma=1e4)[5]  # d1 + d2 is next to nothing beside sigma
    assert 10 * narrow == pytest.approx(10)
    assert border_term(row_with_a_gap(1), sigma=5.0)[5] == pytest.approx(math.exp(-(2**2) / 50))


@pytest.mark.parametrize(("sigma", "size"), [(2.0, (120,)), (2.0, (40, 50)), (1.3, (12, 14, 16))])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_distances_to_all_instances_for_any_number_of_axes(sigma, size, seed):
    labels = blobs(*size, seed=seed)
    term, expected = border_term(labels, sigma), by_all_instances(labels, sigma)
    assert (expected > 0.1).any()
    # Past four sigma the term is cut off.
    np.testing.assert_allclose(term, np.where(expected > 0.99999 * math.exp(-8), expected, 0), rtol=1e-5)
    assert np.abs(term - expected).max() < 1e-3


def test_gaps_are_between_instances_not_between_classes():
    cells = np.zeros((9, 21), np.int64)
    cells[2:7, 2:7] = 1
    assert not border_term(cells, 5.0).any()  # one instance has a border, but no gap
    cells[2:7, 10:15] = 1
    assert border_term(cells, 5.0)[4, 8] == pytest.approx(math.exp(-(4**2) / 50))


def test_touching_parts_of_one_class_are_one_instance_and_of_two_classes_are_two():
    cells = np.zeros((9, 13), np.int64)
    cells[2:5, 2:5] = cells[5:7, 5:7] = 1  # they touch at a corner
    assert not border_term(cells, 5.0).any()
    cells[5:7, 5:7] = 2
    assert border_term(cells, 5.0)[4, 5] == pytest.approx(math.exp(-(2**2) / 50))


@pytest.mark.parametrize("size", [(30, 40), (10, 12, 14)])
def test_a_mirrored_mask_has_the_mirrored_term(size):
    labels = blobs(*size)
    expected = border_term(labels, 2.0)
    for axis in range(len(size)):
        np.testing.assert_array_equal(border_term(np.flip(labels, axis), 2.0), np.flip(expected, axis))
    np.testing.assert_array_equal(border_term(labels.T, 2.0), expected.T)


@pytest.mark.parametrize("size", [(60,), (20, 25), (8, 9, 10)])
@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_the_loss_is_the_weighted_sum_over_the_number_of_pixels(size, balance):
    mask = torch.from_numpy(np.stack([blobs(*size, seed=seed) for seed in (0, 1)]))
    logits = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = BorderCrossEntropy(7.0, 2.0, balance, class_shares=SHARES)(logits, mask)

    own = torch.tensor([1.0, 1.0, 1.0]) if balance == "none" else torch.tensor([0.45, 0.75, 1.5])  # 0.225 is the median
    valid = mask != 255
    index = mask.where(valid, 0)
    weights = own[index] + 7.0 * torch.from_numpy(np.stack([border_term(image, 2.0) for image in mask.numpy()]))
    costs = -logits.log_softmax(dim=1).gather(1, index[:, None])[:, 0]
    expected = (weights * costs * valid).sum() / valid.sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)))


def test_a_gap_raises_the_loss():
    mask = torch.from_numpy(row_with_a_gap(9))[None]
    logits = torch.zeros(1, 2, 19)
    expected = math.log(2) * (19 + 9 * 10 * math.exp(-2)) / 19
    assert BorderCrossEntropy()(logits, mask) == pytest.approx(expected)


@pytest.mark.parametrize("arguments", [{"border_weight": 0.0}, {"sigma": 1e-3}])
def test_without_borders_it_is_cross_entropy(arguments):
    logits, mask = batch(6, 7)
    torch.testing.assert_close(BorderCrossEntropy(**arguments)(logits, mask), CrossEntropy()(logits, mask))


def test_gradients_are_those_of_finite_differences():
    logits, mask = batch(4, 5)
    assert torch.autograd.gradcheck(lambda scores: BorderCrossEntropy()(scores, mask), logits.double(), fast_mode=True)


@pytest.mark.parametrize("balance", ["none", "inverse_log"])
def test_an_all_void_batch_gives_zero_and_finite_gradients(balance):
    logits, mask = batch(5, 6)
    loss = BorderCrossEntropy(balance=balance, class_shares=SHARES)(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(6, 7)
    changed = torch.where(mask[:, None] == 255, 100.0, logits)
    assert torch.equal(BorderCrossEntropy()(changed, mask), BorderCrossEntropy()(logits, mask))


def test_void_is_no_instance_and_has_no_term():
    row = row_with_a_gap(9)
    expected = border_term(row, 5.0)
    row[[5, 9]] = 255
    expected[[5, 9]] = 0
    np.testing.assert_array_equal(border_term(row, 5.0), expected)


def test_another_ignore_label_is_taken():
    logits, mask = batch(6, 7)
    other = BorderCrossEntropy(balance="inverse_log", class_shares=SHARES, ignore_label=-1)
    loss = BorderCrossEntropy(balance="inverse_log", class_shares=SHARES)
    assert torch.equal(other(logits, mask.where(mask != 255, -1)), loss(logits, mask))


@pytest.mark.parametrize(("size", "classes"), [((1,), 3), ((1, 1), 3), ((1, 1, 1), 3), ((5, 6), 1)])
def test_one_pixel_and_one_class_equal_cross_entropy(size, classes):
    logits, mask = batch(*size, classes=classes, void=0.0)
    torch.testing.assert_close(BorderCrossEntropy()(logits, mask), CrossEntropy()(logits, mask))


def test_saturated_logits_give_finite_values_and_gradients():
    logits, mask = batch(6, 7)
    scores = (1e4 * logits.detach()).requires_grad_()
    loss = BorderCrossEntropy()(scores, mask)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_half_precision_masks_of_bytes_and_other_layouts_are_taken():
    logits, mask = batch(6, 7)
    logits = logits.bfloat16()
    expected = BorderCrossEntropy()(logits.float(), mask)
    layout = mask.transpose(1, 2).contiguous().transpose(1, 2)
    loss = BorderCrossEntropy()(logits.to(memory_format=torch.channels_last), layout.to(torch.uint8))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_weights_are_no_part_of_the_state():
    assert not BorderCrossEntropy(balance="inverse_log", class_shares=SHARES).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"border_weight": -1.0}, r"loss\.border_cross_entropy\.border_weight is -1\.0"),
        ({"sigma": 0.0}, r"loss\.border_cross_entropy\.sigma is 0\.0"),
        ({"balance": "median_frequency"}, "class_shares"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        BorderCrossEntropy(**arguments)


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        BorderCrossEntropy()(logits, mask.transpose(1, 2))
