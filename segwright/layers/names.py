"""Names of weights, as other libraries have them and as ours are."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor


def rename(state_dict: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Weights under new names.

    Args:
        state_dict: Weights by name.
        rules: Regular expressions and their replacements, applied to every name one after the other.
    """
    renamed = {}
    for name, value in state_dict.items():
        new_name = name
        for pattern, replacement in rules:
            new_name = re.sub(pattern, replacement, new_name)
        renamed[new_name] = value
    return renamed
