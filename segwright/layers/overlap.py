"""The sums over pixels of which losses of overlap are ratios."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def overlap_sums(
    probabilities: Float[Tensor, "B K N"], labels: Int64[Tensor, "B N"], ignore_label: int, *, squared: bool = False
) -> Float[Tensor, "3 B K"]:
    """|P∩M|, |P| and |M| of each class in each image, over the pixels that are not void.

    Args:
        probabilities: Class probabilities in [0, 1].
        labels: Class of each pixel, 0 to K - 1, or `ignore_label`.
        ignore_label: Pixels with this label count in none of the sums.
        squared: Whether |P| sums the squares of the probabilities.

    Returns:
        The sum of a class's probabilities over the pixels of that class, their sum over all pixels, and the number of
        pixels of that class.
    """
    batch, classes, _ = probabilities.shape
    valid = labels != ignore_label  # B N
    index = torch.where(valid, labels, 0)  # B N
    # Gathering the probability of the true class spares a one-hot mask of the size of the probabilities.
    own = probabilities.gather(1, index[:, None])[:, 0] * valid  # B N
    overlap = own.new_zeros(batch, classes).scatter_add(1, index, own)  # B K
    actual = labels.new_zeros(batch, classes).scatter_add(1, index, valid.long())  # B K
    # Autocast would run the product in half precision, whose eight to eleven bits cannot sum over pixels.
    with torch.autocast(probabilities.device.type, enabled=False):
        counted = probabilities.square() if squared else probabilities
        predicted = (counted @ valid[:, :, None].to(counted.dtype))[:, :, 0]  # B K
    return torch.stack([overlap, predicted, actual.to(overlap.dtype)])
