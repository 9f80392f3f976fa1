"""Weights that make rare classes count."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Balance = Literal["none", "median_frequency", "inverse_log"]
"""How weights follow from the shares s of the classes in the training pixels that are not void: "none" for 1 each,
"median_frequency" for median share / s, "inverse_log" for 1 / ln(1.02 + s)."""


def class_weights(balance: Balance, class_shares: Sequence[float] | None) -> Float[Tensor, " K"] | None:
    """Weights of the classes, as `Balance` describes them; None for "none".

    A class without any pixel in the training set has the weight 0.

    Args:
        balance: The rule.
        class_shares: Share of each class in the pixels of the training set that are not void; needed by all rules but
            "none".

    Raises:
        ValueError: If shares are needed and missing, or none of them is positive.

    Source: median frequency, Eigen and Fergus, ICCV 2015 (https://arxiv.org/abs/1411.4734), with shares over the whole
    training set; inverse logarithm, Paszke et al., ENet, 2016 (https://arxiv.org/abs/1606.02147).
    """
    if balance == "none":
        return None
    if class_shares is None:
        raise ValueError(f"balance '{balance}' came without class_shares; give the share of each class or 'none'")
    shares = torch.tensor(class_shares, dtype=torch.float64)  # K
    present = shares > 0
    if not present.any():
        raise ValueError("class_shares has no positive share; are all masks of the training set void?")
    is_median = balance == "median_frequency"
    weights = shares[present].quantile(0.5) / shares if is_median else 1 / torch.log(1.02 + shares)
    return torch.where(present, weights, 0.0).float()
