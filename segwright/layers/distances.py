"""Distances between pixels, computed on the CPU."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage


def distance_to(pixels: Bool[np.ndarray, "*S"], spacing: Sequence[float] | None = None) -> Float32[np.ndarray, "*S"]:
    """Euclidean distance from the center of each pixel to the center of the nearest marked pixel.

    Args:
        pixels: True at the marked pixels or voxels.
        spacing: Distance between neighbors along each axis, in any unit; None for 1 pixel.

    Returns:
        Distances in the unit of `spacing`: 0 at marked pixels, infinite if there are none.
    """
    if not pixels.any():
        return np.full(pixels.shape, np.inf, np.float32)
    if pixels.ndim != 2 or (spacing is not None and spacing[0] != spacing[1]):
        distances = ndimage.distance_transform_edt(~pixels, sampling=spacing)
        return np.asarray(distances, np.float32)
    in_pixels = cv2.distanceTransform((~pixels).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The last bits can differ from call to call (https://github.com/opencv/opencv/issues/24082); squares of distances
    # are whole numbers, and rounded to them a run is repeated exactly.
    exact: Float32[np.ndarray, "H W"] = np.sqrt(np.rint(np.square(in_pixels)))
    return exact if spacing is None else exact * np.float32(spacing[0])
