"""Which network and which loss suit the data."""

from segwright.data.inspection import Inspection
from segwright.planning.choice import Choice
from segwright.recipe import AUTO, Recipe

THIN = 16.0
"""Objects narrower than this, in pixels, fall between the outputs of a network with one in eight pixels.

The limit lies between membranes, 12 pixels wide in this measure, where U-Net is better (benchmarks/accuracy.csv), and
street scenes, 23 pixels wide, where DDRNet is (benchmarks/zoo.csv).
"""


def decide_network(recipe: Recipe, inspection: Inspection) -> list[Choice]:
    """The network, if the recipe leaves it open."""
    if recipe.network["name"] != AUTO:
        return []
    width = inspection.statistics.object_width
    if 0 < width < THIN:
        network = {"name": "unet", "encoder": "resnet18"}
        return [Choice("network", network, f"objects are about {width:.0f} pixels wide, which needs fine outputs")]
    reason = f"learns most in minutes (benchmarks/zoo.csv); objects are about {width:.0f} pixels wide"
    return [Choice("network", {"name": "ddrnet"}, reason)]


def decide_loss(recipe: Recipe, inspection: Inspection) -> list[Choice]:
    """The loss, if the recipe leaves it open."""
    if recipe.loss:
        return []
    return [Choice("loss", {"cross_entropy": {}}, "every pixel counts the same")]
