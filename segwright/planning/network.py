"""Which network and which loss suit the data."""

from segwright.data.inspection import Inspection
from segwright.planning.choice import Choice
from segwright.recipe import AUTO, Recipe

THIN = 10.0
"""Objects narrower than this, in pixels, fall between the outputs of a network with one in eight pixels."""


def decide_network(recipe: Recipe, inspection: Inspection) -> list[Choice]:
    """The network, if the recipe leaves it open."""
    if recipe.network["name"] != AUTO:
        return []
    width = inspection.statistics.object_width
    if 0 < width < THIN:
        network = {"name": "unet", "encoder": "resnet18"}
        return [Choice("network", network, f"objects are about {width:.0f} pixels wide, which needs fine outputs")]
    reason = f"the best of all networks after minutes of training; objects are about {width:.0f} pixels wide"
    return [Choice("network", {"name": "ddrnet"}, reason)]


def decide_loss(recipe: Recipe, inspection: Inspection) -> list[Choice]:
    """The loss, if the recipe leaves it open."""
    if recipe.loss:
        return []
    return [Choice("loss", {"cross_entropy": {}}, "every pixel counts the same")]
