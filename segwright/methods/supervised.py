"""Full supervision: every pixel of every image has a class or is void."""

from collections.abc import Mapping

from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn


class Supervised(nn.Module):
    """Losses of a network's logits against the masks.

    Args:
        network: Maps images to a list of logits by `forward_all`, the main ones first.
        losses: Weight and loss by name; the total is their weighted sum.
        auxiliary_weight: Weight of each further output of the network.
    """

    def __init__(
        self, network: nn.Module, losses: Mapping[str, tuple[float, nn.Module]], auxiliary_weight: float = 0.4
    ) -> None:
        super().__init__()
        self.network = network
        self.weights = {name: weight for name, (weight, _) in losses.items()}
        self.losses = nn.ModuleDict({name: loss for name, (_, loss) in losses.items()})
        self.auxiliary_weight = auxiliary_weight

    def forward(self, image: Shaped[Tensor, "B C *S"], mask: Int[Tensor, "B *S"]) -> dict[str, Float[Tensor, ""]]:
        """Named losses of a batch, the total under "loss"."""
        outputs = self.network.forward_all(image)  # type: ignore[operator]
        main, auxiliary = outputs[0], outputs[1:]
        terms = {name: loss(main, mask) for name, loss in self.losses.items()}
        total = sum((self.weights[name] * term for name, term in terms.items()), start=main.new_zeros(()).float())
        for logits in auxiliary:
            for name, loss in self.losses.items():
                total = total + self.auxiliary_weight * self.weights[name] * loss(logits, mask)
        return terms | {"loss": total}


build = Supervised
