"""Full supervision: every pixel of every image has a class or is void."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from segwright.types import IGNORE_LABEL


class Supervised(nn.Module):
    """Losses of a network's logits against the masks; auxiliary outputs may be smaller than the image.

    Args:
        network: Maps images and masks to a list of logits, the main ones first, and to terms of its own, as
            `Segmenter.forward_with_terms` does.
        losses: Weight and loss by name; the total is their weighted sum.
        auxiliary_weight: Weight of each further output of the network; None takes the network's own.
    """

    def __init__(
        self, network: nn.Module, losses: Mapping[str, tuple[float, nn.Module]], auxiliary_weight: float | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.weights = {name: weight for name, (weight, _) in losses.items()}
        self.losses = nn.ModuleDict({name: loss for name, (_, loss) in losses.items()})
        own_weight: float = network.auxiliary_weight  # type: ignore[assignment]
        self.auxiliary_weight = own_weight if auxiliary_weight is None else auxiliary_weight

    def forward(self, image: Shaped[Tensor, "B C *S"], mask: Int[Tensor, "B *S"]) -> dict[str, Float[Tensor, ""]]:
        """Named losses of a batch, the total under "loss"."""
        outputs, own_terms = self.network.forward_with_terms(image, mask, IGNORE_LABEL)  # type: ignore[operator]
        main, auxiliary = outputs[0], outputs[1:]
        terms = {name: loss(main, mask) for name, loss in self.losses.items()}
        total = sum((self.weights[name] * term for name, term in terms.items()), start=main.new_zeros(()).float())
        for term in own_terms.values():
            total = total + term
        for logits in auxiliary:
            smaller = shrink_mask(mask, logits.shape[2:])
            for name, loss in self.losses.items():
                total = total + self.auxiliary_weight * self.weights[name] * loss(logits, smaller)
        named: dict[str, Tensor] = terms | own_terms | {"loss": total}
        return named


def shrink_mask(mask: Int[Tensor, "B *S"], size: Sequence[int]) -> Int[Tensor, "B *s"]:
    """The mask at a smaller size: each pixel takes the class at its center, as an auxiliary output needs it."""
    for axis, length in enumerate(size, start=1):
        centers = (torch.arange(length, device=mask.device) + 0.5) * (mask.shape[axis] / length)
        mask = mask.index_select(axis, centers.long())
    return mask


build = Supervised
