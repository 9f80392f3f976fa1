"""What planning decides, with its reason."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A value that a recipe left open.

    Attributes:
        key: Dotted key of the recipe.
        value: What was chosen.
        reason: Why, in one line.
    """

    key: str
    value: Any
    reason: str
