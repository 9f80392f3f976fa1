"""Focal and Dice loss together, with weights that keep both heard."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.class_weights import Balance
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.losses.dice import Dice
from segwright.losses.focal import Focal
from segwright.types import IGNORE_LABEL


class FocalDice(nn.Module):
    """w_focal · focal + w_dice · dice, with weights that follow the training so that both have the same share.

    As the network learns, (1 - p)^gamma makes the focal term far smaller than Dice, and a plain sum is little but Dice.
    Each weight is the mean of the running means of the two terms over the term's own, scaled so that the weights add up
    to 2: w_focal = 2 m_dice / (m_focal + m_dice) and w_dice = 2 m_focal / (m_focal + m_dice). Weights have no gradient.

    The running means are exponential ones over the calls in training mode, those for auxiliary outputs included; the
    first call starts them. They are equal on all processes, and a checkpoint keeps them. Batches of void pixels only,
    and those whose loss is not finite, leave them as they are; before the first batch both weights are 1.

    Args:
        gamma: Exponent of the focal loss, at least 0.
        balance: Rule for the weights of the classes in the focal loss, see `layers.class_weights`.
        include_background: Whether class 0 counts in the Dice loss.
        dynamic: Whether the weights follow the training; False keeps both at 1.
        decay: Share of the running mean that a call keeps, at least 0 and below 1.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels, which do not count.

    Raises:
        ValueError: If `gamma` or `decay` is out of its range, or if `balance` misses what it needs.

    Source: none for the weights. Texts that add the two losses leave the weights open; this rule is ours. Its relative
    is dynamic weight averaging, Liu, Johns and Davison, CVPR 2019 (https://arxiv.org/abs/1803.10704), which weighs
    terms by how fast they fall, not by how large they are, and also keeps the sum of the weights.
    """

    means: Tensor

    def __init__(
        self,
        gamma: float = 2.0,
        balance: Balance = "none",
        *,
        include_background: bool = True,
        dynamic: bool = True,
        decay: float = 0.99,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise ValueError(f"loss.focal_dice.gamma is {gamma}, but the exponent is 0 or more; try 2")
        if not 0 <= decay < 1:
            raise ValueError(f"loss.focal_dice.decay is {decay}, but a share below 1 is kept; try 0.99")
        self.focal = Focal(gamma, balance, class_shares=class_shares, ignore_label=ignore_label)
        self.dice = Dice(include_background, ignore_label=ignore_label)
        self.dynamic = dynamic
        self.decay = decay
        self.register_buffer("means", torch.full((2,), torch.nan))  # of focal and Dice; not a number before the first

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        terms = torch.stack([self.focal(logits, mask), self.dice(logits, mask)])  # 2
        if not self.dynamic:
            return terms.sum()
        if self.training:
            self._follow(terms)
        # Without a batch so far, or if both terms are 0, the ratio is not a number.
        weights = (2 * self.means.flip(0) / self.means.sum()).nan_to_num(nan=1.0)  # 2
        return (weights.to(terms.dtype) * terms).sum()

    @torch.no_grad()
    def _follow(self, terms: Float[Tensor, "2"]) -> None:
        """Move the running means towards the terms of this call."""
        now = (sum_over_processes(terms) / num_processes()).to(self.means.dtype)
        before = torch.where(self.means.isnan(), now, self.means)
        # Both terms are 0 if all pixels are void; a gradient scaler skips steps that are not finite.
        counts = (now.sum() > 0) & now.isfinite().all()
        self.means.copy_(torch.where(counts, now.lerp(before, self.decay), self.means))


build = FocalDice
