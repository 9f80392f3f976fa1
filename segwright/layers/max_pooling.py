"""Maximum pooling whose windows may be larger than the map, in a form that every engine can run at every size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def max_pool(x: Float[Tensor, "B C H W"], window: int) -> Float[Tensor, "B C h w"]:
    """Maxima of the square windows side by side that fit into the map; one window spans a side that is shorter.

    Args:
        x: Maps.
        window: Side of a window in pixels.
    """
    height, width = x.shape[2:]
    # OpenVINO refuses a window that is larger than the map, and a window that depends on the map is fixed by exporters.
    x = x.index_select(2, _in_windows(height, window, x.device)).index_select(3, _in_windows(width, window, x.device))
    return F.max_pool2d(x, window)  # B C H/window W/window


def _in_windows(length: int, window: int, device: torch.device) -> Int64[Tensor, "L"]:
    """Pixels of an axis that lie in whole windows; in one window with its last pixel repeated, if it is shorter."""
    whole = length // window
    count = whole + 1 // (whole + 1)  # 1 instead of 0, without a comparison
    last = torch.full((1,), length - 1, dtype=torch.int64, device=device)
    return torch.minimum(torch.arange(count * window, device=device), last)
