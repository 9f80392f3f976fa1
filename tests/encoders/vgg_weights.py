"""Random weights under timm's names, with a narrow classifier, for tests of networks that start from VGG16."""

import timm
import torch
from torch import Tensor

HIDDEN = 64


def vgg_weights(name: str = "vgg16") -> dict[str, Tensor]:
    """Weights as a file of timm's `name` has them, but with HIDDEN channels instead of 4096."""
    with torch.device("meta"):
        network = timm.create_model(name)
    generator = torch.Generator().manual_seed(3)
    weights = {}
    for key, value in network.features.state_dict(prefix="features.").items():
        if value.is_floating_point():
            weights[key] = torch.rand(value.shape, generator=generator) * (0.1 if value.ndim == 4 else 1.0)
    for layer, shape in (("fc1", (HIDDEN, 512, 7, 7)), ("fc2", (HIDDEN, HIDDEN, 1, 1))):
        weights[f"pre_logits.{layer}.weight"] = torch.randn(shape, generator=generator)
        weights[f"pre_logits.{layer}.bias"] = torch.randn(HIDDEN, generator=generator)
    return weights
