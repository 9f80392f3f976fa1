"""The learning rate that suits a network: layers without normalization bear far smaller steps."""

from torch import nn

RATES = {"adamw": 2e-3, "sgd": 0.02}
"""For networks whose convolutions are normalized (benchmarks/defaults.csv)."""

WITHOUT_NORMALIZATION = 0.05
"""Factor for the others. A step of Adam moves every weight alike: without normalization, thirteen layers of VGG16
multiply the change of each by that of all others, and 2e-3 leaves the range of numbers in two steps."""

BEARABLE = 0.3
"""Share of bare convolutions up to which a network counts as normalized: a head, a few layers of a decoder."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def choose_rate(optimizer: str, network: nn.Module) -> float:
    """The learning rate for an optimizer, as a recipe names it, on a network."""
    factor = WITHOUT_NORMALIZATION if bare_share(network) > BEARABLE else 1.0
    return RATES[optimizer] * factor


def bare_share(network: nn.Module) -> float:
    """Share of the spatial convolutions that have no normalization beside them, before or after."""
    leaves = [module for module in network.modules() if not list(module.children())]
    # What neither filters nor normalizes may lie between a convolution and its normalization.
    chain = [module for module in leaves if isinstance(module, _NORMS + _CONVOLUTIONS + (nn.Linear,))]
    spatial = bare = 0
    for before, module, after in zip([None, *chain], chain, [*chain[1:], None], strict=False):
        if isinstance(module, _CONVOLUTIONS) and max(module.kernel_size) > 1:
            spatial += 1
            bare += not isinstance(before, _NORMS) and not isinstance(after, _NORMS)
    return bare / spatial if spatial else 0.0
