import math

import pytest
import torch

from segwright.layers.class_weights import class_weights

SHARES = [0.5, 0.3, 0.15, 0.05]


def test_weights_are_those_of_the_papers():
    median = (0.3 + 0.15) / 2
    assert class_weights("median_frequency", SHARES).tolist() == pytest.approx([median / share for share in SHARES])
    expected = [1 / math.log(1.02 + share) for share in SHARES]
    assert class_weights("inverse_log", SHARES).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("balance", ["median_frequency", "inverse_log"])
def test_an_absent_class_weighs_nothing_and_does_not_shift_the_median(balance):
    weights = class_weights(balance, [0.0, *SHARES])
    assert weights[0] == 0
    assert torch.equal(weights[1:], class_weights(balance, SHARES))


def test_no_rule_gives_no_weights():
    assert class_weights("none", None) is None


def test_balance_without_shares_is_refused():
    with pytest.raises(ValueError, match="balance 'inverse_log' came without class_shares"):
        class_weights("inverse_log", None)


def test_shares_of_void_only_are_refused():
    with pytest.raises(ValueError, match="no positive share"):
        class_weights("inverse_log", [0.0, 0.0])
