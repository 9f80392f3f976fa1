"""Soft intersection over union as a loss, over the whole batch."""

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.losses.tversky import Tversky
from segwright.types import IGNORE_LABEL


class IoU(nn.Module):
    """One minus the mean over classes of |P∩M| / (|P| + |M| - |P∩M|), with sums over the batch of all processes.

    This is the Tversky loss with the weight 1 for false positives and false negatives; the mean is over the classes
    that the masks of the batch have.

    Args:
        include_background: Whether class 0 counts in the mean.
        ignore_label: Label of void pixels, which count neither in P nor in M.

    Source: Rahman and Wang, ISVC 2016 (https://doi.org/10.1007/978-3-319-50835-1_22). The hybrid loss of UNet 3+
    (https://arxiv.org/abs/2004.08790) has it for each image and for the foreground alone.
    """

    def __init__(self, include_background: bool = True, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.tversky = Tversky(1.0, 1.0, include_background=include_background, ignore_label=ignore_label)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if no class that counts is in the masks."""
        loss: Tensor = self.tversky(logits, mask)
        return loss


build = IoU
