import math

import pytest
import torch

from segwright.layers.class_weights import class_weights
from segwright.losses.cross_entropy import CrossEntropy
from segwright.losses.ohem_cross_entropy import OhemCrossEntropy

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(*size, classes=4, void=0.2, sure=0.0):
    """Logits that raise the class of the mask by `sure`."""
    torch.manual_seed(0)
    mask = torch.randint(0, classes, (2, *size))
    logits = 2 * torch.randn(2, classes, *size, dtype=torch.float64)
    logits.scatter_add_(1, mask[:, None], torch.full((2, 1, *size), sure, dtype=torch.float64))
    mask[torch.rand(2, *size) < void] = 255
    return logits.requires_grad_(), mask


def true_probabilities(logits, mask):
    """Probability of the class of each pixel that is not void."""
    valid = mask != 255
    return logits.softmax(dim=1).movedim(1, -1)[valid].gather(1, mask[valid][:, None])[:, 0]


def by_the_definition(logits, mask, threshold, min_kept, weights):
    probabilities = true_probabilities(logits, mask).tolist()
    labels = mask[mask != 255].tolist()
    number = max(1, math.ceil(min_kept * len(labels)))
    limit = max(threshold, sorted(probabilities)[number - 1])
    kept = [(weights[label], -math.log(p)) for label, p in zip(labels, probabilities, strict=True) if p <= limit]
    return sum(weight * cost for weight, cost in kept) / sum(weight for weight, _ in kept)


def pixels_with_gradient(logits, mask, loss):
    (gradient,) = torch.autograd.grad(loss(logits, mask), logits)
    return gradient.abs().sum(dim=1) > 0


@pytest.mark.parametrize("size", [(40,), (8, 9), (3, 4, 5)])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("min_kept", [0.0, 1 / 16, 0.4, 1.0])
def test_equals_the_definition(size, threshold, min_kept):
    logits, mask = batch(*size, sure=3.0)
    loss = OhemCrossEntropy(threshold, min_kept)(logits, mask)
    assert loss.item() == pytest.approx(by_the_definition(logits, mask, threshold, min_kept, [1.0] * 4), rel=1e-12)


def test_equals_the_definition_with_weights():
    logits, mask = batch(8, 9)
    loss = OhemCrossEntropy(balance="median_frequency", class_shares=SHARES)(logits, mask)
    weights = class_weights("median_frequency", SHARES).tolist()
    assert loss.item() == pytest.approx(by_the_definition(logits, mask, 0.7, 1 / 16, weights), rel=1e-12)


@pytest.mark.parametrize("arguments", [{"threshold": 1.0}, {"min_kept": 1.0}], ids=str)
@pytest.mark.parametrize("balance", ["none", "inverse_log"])
def test_keeping_all_pixels_is_cross_entropy(arguments, balance):
    logits, mask = batch(8, 9)
    loss = OhemCrossEntropy(**arguments, balance=balance, class_shares=SHARES)(logits, mask)
    torch.testing.assert_close(loss, CrossEntropy(balance, class_shares=SHARES)(logits, mask))


def test_all_pixels_below_the_threshold_learn_and_no_others():
    logits, mask = batch(8, 9)
    learning = pixels_with_gradient(logits, mask, OhemCrossEntropy())
    assert torch.equal(learning[mask != 255], true_probabilities(logits, mask) <= 0.7)
    assert not learning[mask == 255].any()


def test_a_sixteenth_of_the_pixels_that_are_not_void_learns_when_all_are_easy():
    logits, mask = batch(20, 20, sure=20.0)
    learning = pixels_with_gradient(logits, mask, OhemCrossEntropy())
    probabilities = true_probabilities(logits, mask)
    assert probabilities.min() > 0.7
    assert learning.sum() == math.ceil((mask != 255).sum() / 16)
    assert probabilities[learning[mask != 255]].max() < probabilities[~learning[mask != 255]].min()


def test_void_pixels_are_left_out_before_the_share_is_taken():
    logits, mask = batch(20, 20, void=0.0, sure=20.0)
    more_logits = torch.cat([logits, -logits])  # the hardest of pixels, were they not void
    more_mask = torch.cat([mask, torch.full_like(mask, 255)])
    torch.testing.assert_close(OhemCrossEntropy()(more_logits, more_mask), OhemCrossEntropy()(logits, mask))


def test_a_batch_of_twice_the_images_keeps_twice_the_pixels():
    logits, mask = batch(8, 8, void=0.0, sure=20.0)
    twice = OhemCrossEntropy()(torch.cat([logits, logits]), torch.cat([mask, mask]))
    torch.testing.assert_close(twice, OhemCrossEntropy()(logits, mask))


def test_weights_are_no_part_of_the_state():
    assert not OhemCrossEntropy(balance="inverse_log", class_shares=SHARES).state_dict()


@pytest.mark.parametrize("arguments", [{"threshold": 1.5}, {"threshold": -0.1}, {"min_kept": 100_000}], ids=str)
def test_shares_beyond_zero_and_one_are_refused_with_their_key(arguments):
    with pytest.raises(ValueError, match=rf"loss\.ohem_cross_entropy\.{next(iter(arguments))} is .* from 0 to 1; try"):
        OhemCrossEntropy(**arguments)
