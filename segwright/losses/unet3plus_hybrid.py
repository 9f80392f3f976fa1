"""The loss of UNet 3+: focal loss for pixels, MS-SSIM for patches, IoU for the whole map."""

from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.losses.focal import Focal
from segwright.losses.iou import IoU
from segwright.losses.ms_ssim import MultiScaleSSIM
from segwright.types import IGNORE_LABEL


class UNet3PlusHybrid(nn.Module):
    """Sum of `Focal`, `MultiScaleSSIM` and `IoU`, each as its file has it by default.

    The paper's terms work on a sigmoid for each class; these work on the softmax over classes. Other weights, and other
    options of a term, are had by naming the three losses in a recipe.

    Args:
        ignore_label: Label of void pixels, which count in none of the terms.

    Source: Huang et al., UNet 3+, ICASSP 2020, section 2.2 (https://arxiv.org/abs/2004.08790).
    """

    def __init__(self, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        self.focal = Focal(ignore_label=ignore_label)
        self.ms_ssim = MultiScaleSSIM(ignore_label=ignore_label)
        self.iou = IoU(ignore_label=ignore_label)

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The sum of the three; 0 if all pixels are void."""
        total: Tensor = self.focal(logits, mask) + self.ms_ssim(logits, mask) + self.iou(logits, mask)
        return total


build = UNet3PlusHybrid
