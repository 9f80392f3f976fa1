"""The learning rate that suits a network: attention, and layers without normalization, bear far smaller steps."""

from torch import nn

RATES = {"adamw": 2e-3, "sgd": 0.02}
"""For networks whose convolutions are normalized over the batch (benchmarks/defaults.csv)."""

SENSITIVE = 0.05
"""Factor for the others: 1e-4 with AdamW, about what the papers of such networks have. A step of Adam moves every
weight alike, and without normalization each layer multiplies the changes of all before it: one step of 2e-3 on
thirteen layers of 256 channels takes a loss of 1 to 250 (tests/planning/test_rate.py)."""

BEARABLE = 0.3
"""Share of bare convolutions up to which a network counts as normalized: a head, a few layers of a decoder."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def choose_rate(optimizer: str, network: nn.Module) -> float:
    """The learning rate for an optimizer, as a recipe names it, on a network."""
    # Layer normalization means attention, or ConvNeXt, which is trained as attention is.
    is_sensitive = bare_share(network) > BEARABLE or any(
        isinstance(module, nn.LayerNorm) for module in network.modules()
    )
    return RATES[optimizer] * (SENSITIVE if is_sensitive else 1.0)


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
