"""Dilation of whole stages of a ResNet, as many segmentation papers have it."""

from torch import nn

STRIDES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}  # of a ResNet's stages, without dilation


def dilate_whole_stages(encoder: nn.Module, output_stride: int) -> None:
    """Give all convolutions of a stage one dilation, in an encoder that timm has dilated to `output_stride`.

    timm (like torchvision) lets the first unit of a dilated stage keep the dilation of the stage before. The authors
    of PSPNet, for one, dilate that unit too; the weights are the same, the maps are not. Encoders other than the
    ResNet family, whose stages have other names, stay as they are.
    """
    for name, stage in encoder.named_modules():
        rate = STRIDES.get(name.rpartition(".")[-1], 0) // output_stride
        if rate > 1:
            for module in stage.modules():
                if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                    module.dilation = (rate, rate)
                    module.padding = tuple(rate * (side // 2) for side in module.kernel_size)
