"""Cross-entropy of the hardest pixels: online hard example mining (OHEM)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from segwright.layers.class_weights import Balance, class_weights
from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL


class OhemCrossEntropy(nn.Module):
    """Mean of -w_y log p_y over the hard pixels, divided by the mean of their weights w_y.

    A pixel is hard, with p_y the probability of its class, if

        p_y <= max(threshold, p_(k)),    p_(k) the k-th smallest p_y,    k = min_kept · number of pixels,

    so that at least k pixels are kept when nearly all are learned. Void pixels are neither counted nor kept.

    Codes differ in k: 100 000 pixels of the batch, 100 000 / 64 of them where the loss is taken on maps of an eighth of
    the sides, or a sixteenth of the pixels that are not void. A number of pixels is another share, and so another
    loss, for each crop, batch, output stride and number of processes, and keeps everything where images are small; a
    share has none of these faults, so `min_kept` is one.

    Each of several processes finds the hard pixels of its own part of the batch; the mean is over those of all.

    Args:
        threshold: Probability from 0 to 1 up to which a pixel is hard in any case; 1 keeps all pixels.
        min_kept: Least share of the pixels that is kept, from 0 to 1; one pixel is kept even at 0.
        balance: Rule for the weights of the classes, see `layers.class_weights`; they do not change which pixels are
            hard.
        class_shares: Share of each class in the pixels of the training set that are not void.
        ignore_label: Label of void pixels.

    Raises:
        ValueError: If `threshold` or `min_kept` is not from 0 to 1, or if `balance` needs `class_shares` and they are
            missing.

    Source: for object detection, Shrivastava et al., CVPR 2016 (https://arxiv.org/abs/1604.03540); for pixels, Wu et
    al., 2016 (https://arxiv.org/abs/1605.06885), where it is called online bootstrapping. The share of a sixteenth is
    that of https://github.com/CoinCheung/BiSeNet.
    """

    weights: Tensor | None

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: float = 1 / 16,
        balance: Balance = "none",
        *,
        class_shares: Sequence[float] | None = None,
        ignore_label: int = IGNORE_LABEL,
    ) -> None:
        super().__init__()
        _check_share("threshold", threshold, "a probability", 0.7)
        _check_share("min_kept", min_kept, "a share of the pixels", 0.0625)
        self.hard_cost = -math.log(threshold) if threshold > 0 else math.inf
        self.min_kept = min_kept
        self.ignore_label = ignore_label
        self.register_buffer("weights", class_weights(balance, class_shares), persistent=False)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        costs = F.cross_entropy(scores, labels, ignore_index=self.ignore_label, reduction="none")  # B N, 0 where void
        valid = labels != self.ignore_label
        hard = self._hard(costs.detach().flatten(), valid.flatten()).view_as(valid)  # B N
        weights = hard.to(costs.dtype)
        if self.weights is not None:
            weights = weights * self.weights.to(costs.dtype)[labels.where(valid, 0)]
        weight = sum_over_processes(weights.sum())
        return (weights * costs).sum() * num_processes() / torch.where(weight > 0, weight, 1.0)

    def _hard(self, costs: Float[Tensor, " N"], valid: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """Whether each pixel is hard, told by its cost -log p_y, which falls where p_y grows."""
        # As many costs as a batch without void needs: their number does not hang on the data, so no device waits.
        most = max(1, math.ceil(self.min_kept * valid.numel()))
        highest = costs.topk(most).values
        kept = (self.min_kept * valid.sum()).ceil().long().clamp(1, most)
        return valid & (costs >= highest.take(kept - 1).clamp(max=self.hard_cost))


def _check_share(name: str, value: float, meaning: str, good: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"loss.ohem_cross_entropy.{name} is {value:g}, but it is {meaning} from 0 to 1; try {good}")


build = OhemCrossEntropy
