import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from segwright.layers.class_weights import class_weights
from segwright.losses.cross_entropy import CrossEntropy

SHARES = [0.5, 0.3, 0.15, 0.05]


def batch(*size, classes=4, void=0.2):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, *size, requires_grad=True)
    mask = torch.randint(0, classes, (2, *size))
    mask[torch.rand(2, *size) < void] = 255
    return logits, mask


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("balance", ["none", "median_frequency", "inverse_log"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_equals_that_of_torch_for_any_number_of_axes(size, balance, label_smoothing):
    logits, mask = batch(*size)
    loss = CrossEntropy(balance, label_smoothing, class_shares=SHARES)(logits, mask)
    weight = class_weights(balance, SHARES)
    expected = F.cross_entropy(logits, mask, weight, ignore_index=255, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected)


def test_masks_of_bytes_are_taken():
    logits, mask = batch(5, 6)
    loss = CrossEntropy()
    assert torch.equal(loss(logits, mask.to(torch.uint8)), loss(logits, mask))


def test_half_precision_is_computed_in_single():
    logits, mask = batch(5, 6)
    loss = CrossEntropy()(logits.bfloat16(), mask)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, CrossEntropy()(logits.bfloat16().float(), mask))


def test_channels_last_equals_contiguous():
    logits, mask = batch(5, 6)
    loss = CrossEntropy()
    assert torch.equal(loss(logits.to(memory_format=torch.channels_last), mask), loss(logits, mask))


@pytest.mark.parametrize("balance", ["none", "median_frequency"])
def test_an_all_void_batch_gives_zero_and_finite_gradients(balance):
    logits, mask = batch(5, 6)
    loss = CrossEntropy(balance, 0.1, class_shares=SHARES)(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_void_pixels_do_not_change_the_loss():
    logits, mask = batch(5, 6)
    changed = torch.where(mask[:, None] == 255, 100.0, logits)
    assert torch.equal(CrossEntropy()(changed, mask), CrossEntropy()(logits, mask))


def test_another_ignore_label_is_taken():
    logits, mask = batch(5, 6)
    loss = CrossEntropy("median_frequency", class_shares=SHARES, ignore_label=-1)(logits, mask.where(mask != 255, -1))
    torch.testing.assert_close(loss, CrossEntropy("median_frequency", class_shares=SHARES)(logits, mask))


def test_weights_are_no_part_of_the_state():
    assert not CrossEntropy("inverse_log", class_shares=SHARES).state_dict()


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(5, 6)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        CrossEntropy()(logits, mask.transpose(1, 2))
