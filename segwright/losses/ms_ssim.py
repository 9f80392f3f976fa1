"""Multi-scale structural similarity between the class probabilities and the mask."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from segwright.layers.pixels import flatten_pixels
from segwright.layers.processes import num_processes, sum_over_processes
from segwright.types import IGNORE_LABEL

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first; Wang et al. took them from what observers told apart."""

LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2
"""c1 and c2 of SSIM, which keep its ratios finite, for values from 0 to 1."""

LEAST_SIMILARITY = 1e-4
"""Similarities below count as this: a negative one has no real power, and near 0 the slope of a power is infinite."""

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class MultiScaleSSIM(nn.Module):
    """One minus the MS-SSIM of each class's probabilities p and its one-hot mask g.

    MS-SSIM = ∏_{j<M} cs_j^w_j · ssim_M^w_M, where scale j is the maps halved j - 1 times. Means μ, variances σ² and the
    covariance σ_pg are those under a Gaussian window; cs and ssim are averaged over all its places inside the image:

    cs = (2σ_pg + c2) / (σ_p² + σ_g² + c2), ssim = cs · (2μ_p μ_g + c1) / (μ_p² + μ_g² + c1).

    The loss is the mean over the images and over the classes that the masks of the batch (of all processes) have.

    Scale j needs sides above (window - 1) · 2^(j-1) pixels: all five scales need sides above 160. Smaller crops use as
    many scales as fit, with their weights rescaled to the sum of all five, and where not even the first one fits the
    window is as long as the side. Maps are halved by averages over 2 pixels an axis; the last pixel of an odd side
    stands alone.

    In void pixels p and g are both zero, so that p does not count there. A place of the window weighs in the average
    as much as the window sees of pixels that are not void, so that void beside an image does not make it look alike;
    an image of void alone does not count.

    About ten maps of the size of the logits are kept for the backward pass.

    Args:
        window: Length of the window in pixels, 3 or more.
        sigma: Standard deviation of the Gaussian in pixels, above 0.
        ignore_label: Label of void pixels.

    Raises:
        ValueError: If `window` or `sigma` is out of its range.

    Source: Wang et al., Multiscale structural similarity for image quality assessment, Asilomar 2003, eq. 7
    (https://doi.org/10.1109/ACSSC.2003.1292216); as a loss, Huang et al., UNet 3+, ICASSP 2020, section 2.2
    (https://arxiv.org/abs/2004.08790). Its code raises ssim_M to 4 · w_M, which neither paper does. Void, crops of less
    than 161 pixels and softmax in the place of sigmoids are ours.
    """

    def __init__(self, window: int = 11, sigma: float = 1.5, *, ignore_label: int = IGNORE_LABEL) -> None:
        super().__init__()
        if window < 3:
            raise ValueError(f"loss.ms_ssim.window is {window}, but a variance needs 3 pixels or more; try 11")
        if not sigma > 0:
            raise ValueError(f"loss.ms_ssim.sigma is {sigma}, but a standard deviation is above 0; try 1.5")
        self.window = window
        self.sigma = sigma
        self.ignore_label = ignore_label

    def forward(self, logits: Float[Tensor, "B K *S"], mask: Integer[Tensor, "B *S"]) -> Float[Tensor, ""]:
        """The loss in [0, 1]; 0 if all pixels of all processes are void."""
        scores, labels = flatten_pixels(logits, mask)  # B K N, B N
        valid = (labels != self.ignore_label)[:, None].to(scores.dtype)  # B 1 N
        index = labels.where(labels != self.ignore_label, 0)[:, None]  # B 1 N
        actual = torch.zeros_like(scores).scatter(1, index, valid)  # B K N
        predicted = scores.softmax(dim=1) * valid  # B K N

        # Autocast would multiply in half precision, in which a variance is lost in the difference E[d²] - μ².
        with torch.autocast(scores.device.type, enabled=False):
            maps = (x.reshape(len(x), -1, *logits.shape[2:]) for x in (predicted, actual, valid))
            losses = 1 - self._similarities(*maps)  # B K

        pixels, images = actual.sum(dim=(0, 2)), valid.amax(dim=(1, 2)).sum()  # K, scalar
        counts = sum_over_processes(torch.cat([pixels, images[None]]))  # K + 1
        present = counts[:-1] > 0  # K
        return (losses * present).sum() * num_processes() / (present.sum() * counts[-1]).clamp(min=1)

    def _similarities(
        self, predicted: Float[Tensor, "B K *S"], actual: Float[Tensor, "B K *S"], valid: Float[Tensor, "B 1 *S"]
    ) -> Float[Tensor, "B K"]:
        """MS-SSIM of each image and class."""
        pool = _POOL[valid.ndim - 2]
        weights = _scale_weights(min(valid.shape[2:]), self.window)
        product = predicted.new_ones(predicted.shape[:2])  # B K
        for scale, weight in enumerate(weights, start=1):
            windows = [self._gaussians(side, valid) for side in valid.shape[2:]]
            unlike = _differences(predicted, actual, windows, with_luminance=scale == len(weights))  # B K *V
            mean = 1 - _weighted_mean(unlike, _blur(valid, windows))  # B K
            product = product * mean.clamp(LEAST_SIMILARITY, 1.0) ** weight  # above 1 is rounding
            if scale < len(weights):
                # The ceiling keeps the last pixel of an odd side, and so every side above `_scale_weights` asks for.
                predicted, actual, valid = (pool(x, 2, ceil_mode=True) for x in (predicted, actual, valid))
        return product

    def _gaussians(self, side: int, like: Tensor) -> Float[Tensor, "V S"]:
        """The window at each of its places inside a side, as rows that sum to 1."""
        length = min(self.window, side)
        places = torch.arange(side - length + 1, device=like.device)[:, None]  # V 1
        pixels = torch.arange(side, device=like.device, dtype=like.dtype)  # S
        offsets = pixels - places - (length - 1) / 2  # V S
        exponents = -(offsets**2) / (2 * self.sigma**2)
        return exponents.masked_fill(offsets.abs() > length / 2, -math.inf).softmax(dim=1)


def _scale_weights(side: int, window: int) -> list[float]:
    """Exponents of as many scales as fit into a side, one at least."""
    num_scales = max(1, sum(side > (window - 1) * 2**halvings for halvings in range(len(SCALE_WEIGHTS))))
    chosen = SCALE_WEIGHTS[:num_scales]
    return [weight * sum(SCALE_WEIGHTS) / sum(chosen) for weight in chosen]


def _differences(
    predicted: Float[Tensor, "B K *S"],
    actual: Float[Tensor, "B K *S"],
    windows: list[Float[Tensor, "_ _"]],
    *,
    with_luminance: bool,
) -> Float[Tensor, "B K *V"]:
    """1 - cs, or 1 - ssim with the luminance, at each place of the window.

    With d = p - g they need no difference of nearly equal numbers where maps are alike: 1 - cs is
    σ_d² / (σ_p² + σ_g² + c2), as σ_d² = σ_p² + σ_g² - 2σ_pg, and 1 minus the luminance is μ_d² / (μ_p² + μ_g² + c1).
    """
    difference = predicted - actual
    mean_p, mean_g = _blur(predicted, windows), _blur(actual, windows)
    mean_d = mean_p - mean_g
    mean_squares = mean_p**2 + mean_g**2
    variances = _blur(predicted**2 + actual**2, windows) - mean_squares
    structure = (_blur(difference**2, windows) - mean_d**2) / (variances + CONTRAST_CONSTANT)
    if not with_luminance:
        return structure
    luminance = mean_d**2 / (mean_squares + LUMINANCE_CONSTANT)
    return structure + luminance - structure * luminance


def _blur(maps: Float[Tensor, "B C *S"], windows: list[Float[Tensor, "_ _"]]) -> Float[Tensor, "B C *V"]:
    """Means under the window at all its places, one axis after the other.

    A convolution would keep its input for the backward pass; a product with the rows of `windows` does not.
    """
    for window in reversed(windows):
        maps = F.linear(maps, window).movedim(-1, 2)  # the last axis becomes the first
    return maps


def _weighted_mean(values: Float[Tensor, "B K *V"], shares: Float[Tensor, "B 1 *V"]) -> Float[Tensor, "B K"]:
    """Mean over the places of the window; 0 where all of them see only void."""
    total = shares.flatten(2).sum(dim=2).clamp(min=torch.finfo(shares.dtype).tiny)  # B 1
    return (values * shares).flatten(2).sum(dim=2) / total


build = MultiScaleSSIM
