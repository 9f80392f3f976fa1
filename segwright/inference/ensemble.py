"""Several trained segmenters as one network."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

ENSEMBLE = "ensemble"
"""What a description has in the place of a network's name."""


class Ensemble(nn.Module):
    """Logarithm of the mean probability over the members: log 1/N Σ_n softmax(f_n(x)).

    Args:
        members: Segmenters of the same classes, which take raw images.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.stride = math.lcm(*(int(member.stride) for member in members))  # type: ignore[arg-type]

    def forward(self, image: Shaped[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        """What the members say together; softmax and argmax are those of the mean."""
        probabilities = [member(image).float().softmax(dim=1) for member in self.members]
        mean = torch.stack(probabilities).mean(dim=0)  # B K H W
        # The smallest number above 0 keeps the logarithm finite where no member sees anything of a class.
        return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
