"""Arguments that make each network small enough for the tests; every file of `segwright/networks` may have a line."""

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "attention_unet": {"widths": (8, 8, 8, 8, 16)},
    "autofocus": {"widths": (8, 8, 12), "autofocus_layers": 3},
    "bisenet": {"width": 16, "auxiliary_channels": 16},
    "bisenetv2": {"head_channels": 16, "booster_channels": 16},
    "ddrnet": {"width": 8, "head_channels": 8, "pyramid_channels": 8},
    "deeplabv1": {"hidden_channels": 16},
    "deeplabv2": {"scales": (1.0,)},
    "deeplabv3": {"channels": 16, "multi_grid": (2,), "auxiliary_head": True},
    "deeplabv3plus": {"channels": 16},
    "dilated_context": {"width": 4, "hidden_channels": 16},
    "dpc": {"channels": 16},
    "fc_densenet": {"layers": (2, 3, 2, 3, 2), "growth": 4, "first_channels": 8, "checkpointing": True},
    "fc_resnet": {"width": 4, "repetitions": (1, 1, 1, 1), "preprocessor_width": 4},
    "fcn": {"hidden_channels": 16},
    "guided_attention": {"channels": 16},
    "pan": {"channels": 16, "pyramid_channels": 4},
    "pspnet": {"channels": 16},
    "refinenet": {"widths": (16, 8, 8, 8)},
    "res_unet": {"encoder": None, "widths": (8, 8, 16, 16, 16)},
    "residual_unet": {"widths": (8, 8, 16, 16)},
    "resunetplusplus": {"widths": (64, 64, 64, 64, 16)},  # a narrow gate has few hidden ReLUs, which may all be shut
    "segformer": {"encoder": "mit_b0", "channels": 16},
    "segnet": {"width": 8, "bias": False},  # normalization cancels a bias, whose gradient is then rounding alone
    "segnet_basic": {"width": 8, "bias": False},
    "unet": {"decoder_channels": (16, 16, 8, 8, 8)},
    "unet3plus": {"width": 4, "classification_guided": True, "bias": False},
    "unet_original": {"width": 4, "depth": 3},
    "unetplusplus": {"width": 4, "depth": 3},
    "unetplusplus_encoder": {"decoder_channels": (16, 16, 8, 8, 8)},
}
