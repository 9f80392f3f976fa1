import pytest
import torch
import torch.nn.functional as F

from segwright.layers.overlap import overlap_sums


def batch():
    torch.manual_seed(0)
    probabilities = torch.randn(2, 4, 50).softmax(dim=1)
    labels = torch.randint(0, 4, (2, 50))
    labels[torch.rand(2, 50) < 0.2] = 255
    return probabilities, labels


@pytest.mark.parametrize("power", [1, 2])
def test_sums_equal_those_of_one_hot_masks(power):
    probabilities, labels = batch()
    valid = labels != 255
    truth = F.one_hot(labels.where(valid, 0), 4).movedim(-1, 1) * valid[:, None]
    expected = [
        (probabilities * truth).sum(dim=2),
        (probabilities**power * valid[:, None]).sum(dim=2),
        truth.sum(dim=2).float(),
    ]
    torch.testing.assert_close(overlap_sums(probabilities, labels, 255, squared=power == 2), torch.stack(expected))


def test_sums_stay_in_single_precision_under_autocast():
    probabilities, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        sums = overlap_sums(probabilities, labels, 255)
    assert torch.equal(sums, overlap_sums(probabilities, labels, 255))
