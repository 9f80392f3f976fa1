"""Connected components of a region of pixels or voxels."""

from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Int32
from scipy import ndimage

Connectivity = Literal["full", "faces"]
"""Neighbors of a pixel: "full" for all that touch it (8 in 2-D, 26 in 3-D), "faces" for those beside it (4, 6)."""


def connected_components(
    region: Bool[np.ndarray, "*S"], connectivity: Connectivity = "full"
) -> Int32[np.ndarray, "*S"]:
    """Number of the connected component of each pixel of a region, from 1; 0 outside."""
    is_full = connectivity == "full"
    if region.ndim == 2:
        return np.asarray(cv2.connectedComponents(region.view(np.uint8), connectivity=8 if is_full else 4)[1])
    neighbors = ndimage.generate_binary_structure(region.ndim, region.ndim if is_full else 1)
    return np.asarray(ndimage.label(region, neighbors)[0], np.int32)
