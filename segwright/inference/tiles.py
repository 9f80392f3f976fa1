"""From an image of any size to a mask: padding, blended tiles, memory bounded by one row of tiles."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from segwright.inference.description import Description
from segwright.layers.hardware import uses_bf16
from segwright.types import Image


class Predictor(Protocol):
    """What this module needs of a segmenter."""

    description: Description

    @property
    def stride(self) -> int:
        """Sides of an input are multiples of this."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def __call__(self, image: Tensor, /) -> Tensor:
        """Logits of raw images."""


@dataclass(frozen=True)
class Prediction:
    """What a segmenter says about one image.

    Attributes:
        mask: Class of each pixel, cleaned up as the segmenter's description says.
        probabilities: Probability of each class before any clean-up, if they were asked for.
    """

    mask: UInt8[np.ndarray, "H W"]
    probabilities: Float32[np.ndarray, "K H W"] | None = None


def predict_image(
    segmenter: Predictor, image: Image, *, probabilities: bool = False, precision: str = "auto"
) -> Prediction:
    """Segment an image of any size.

    Images up to `tiling.whole_pixels` go through the network at once, padded by mirroring to its stride. Larger ones
    are cut into overlapping tiles whose probabilities are blended with Gaussian weights; only one row of tiles is in
    memory at a time, unless the probabilities are asked for.

    Args:
        segmenter: A segmenter in evaluation mode.
        image: Raw pixels as (H, W, C) or, for one channel, (H, W), in the type that the segmenter was trained on.
        probabilities: Return the probabilities too.
        precision: "bf16", "fp32", or "auto": bf16 where the processor has it in hardware.

    Raises:
        ValueError: If channels or type differ from the training images.
    """
    image = _checked(segmenter, image)
    height, width = image.shape[:2]
    padded = _pad(image, segmenter.stride)
    device = segmenter.device
    is_bf16 = uses_bf16(precision, device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
        if padded.shape[0] * padded.shape[1] <= segmenter.description.tiling.whole_pixels:
            mask, scores = _whole(segmenter, padded, probabilities)
        else:
            mask, scores = _tiled(segmenter, padded, probabilities)
    cut = None if scores is None else np.ascontiguousarray(scores[:, :height, :width])
    return Prediction(segmenter.description.cleanup.apply(np.ascontiguousarray(mask[:height, :width])), cut)


def _checked(segmenter: Predictor, image: Image) -> Image:
    image = image[..., None] if image.ndim == 2 else image
    wanted = segmenter.description
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image has the shape {image.shape}, but (height, width, channels) without 0 is needed")
    if image.shape[2] != wanted.in_channels:
        raise ValueError(
            f"image has {image.shape[2]} channels, but this segmenter was trained on {wanted.in_channels}; convert the "
            "image, or train on images like it"
        )
    if str(image.dtype) != wanted.dtype:
        raise ValueError(
            f"image holds {image.dtype} values, but this segmenter was trained on {wanted.dtype}; convert the image to "
            f"{wanted.dtype} with the range of the training images"
        )
    return image


def _pad(image: Image, multiple: int) -> Image:
    after = [-length % multiple for length in image.shape[:2]]
    if not any(after):
        return image
    return np.pad(image, ((0, after[0]), (0, after[1]), (0, 0)), mode="symmetric")


def _logits(segmenter: Predictor, image: Image) -> Float32[Tensor, "K H W"]:
    if image.dtype == np.uint16:
        image = image.astype(np.float32)
    batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]  # 1 C H W, channels-last in memory
    logits: Tensor = segmenter(batch.to(segmenter.device))[0].float()
    return logits


def _whole(
    segmenter: Predictor, image: Image, with_probabilities: bool
) -> tuple[UInt8[np.ndarray, "H W"], Float32[np.ndarray, "K H W"] | None]:
    logits = _logits(segmenter, image)
    mask = _argmax(logits)
    return mask, logits.softmax(0).cpu().numpy() if with_probabilities else None


def _argmax(scores: Float32[Tensor, "K H W"]) -> UInt8[np.ndarray, "H W"]:
    mask: UInt8[np.ndarray, "H W"] = scores.argmax(0).to(torch.uint8).cpu().numpy()
    return mask


def _tiled(
    segmenter: Predictor, image: Image, with_probabilities: bool
) -> tuple[UInt8[np.ndarray, "H W"], Float32[np.ndarray, "K H W"] | None]:
    height, width = image.shape[:2]
    tiling, stride = segmenter.description.tiling, segmenter.stride
    tops, tile_height = tile_starts(height, tiling.tile, tiling.overlap, stride)
    lefts, tile_width = tile_starts(width, tiling.tile, tiling.overlap, stride)
    weight = torch.outer(_bell(tile_height), _bell(tile_width))  # h w
    # Sums of the rows that later tiles may still add to; the last channel sums the weights.
    band = torch.zeros(len(segmenter.description.classes) + 1, tile_height, width)
    mask = np.empty((height, width), np.uint8)
    scores = np.empty((len(segmenter.description.classes), height, width), np.float32) if with_probabilities else None
    for top, next_top in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            tile = image[top : top + tile_height, left : left + tile_width]
            part = band[:, :, left : left + tile_width]
            part[:-1] += _logits(segmenter, tile).softmax(0).cpu() * weight
            part[-1] += weight
        done = next_top - top
        mask[top:next_top] = _argmax(band[:-1, :done])
        if scores is not None:
            scores[:, top:next_top] = (band[:-1, :done] / band[-1, :done]).numpy()
        band = torch.cat([band[:, done:], torch.zeros(band.shape[0], done, width)], dim=1)
    return mask, scores


def tile_starts(length: int, tile: int, overlap: int, stride: int) -> tuple[list[int], int]:
    """Where tiles of one axis start, evenly spread, and how long they are.

    Starts and lengths are multiples of `stride`, so that the pooling grid of a network lies the same in every tile.

    Args:
        length: Pixels of the axis, a multiple of `stride`.
        tile: Wanted length of a tile.
        overlap: Pixels that neighbors share at least.
        stride: Stride of the network.
    """
    tile = min(max(tile // stride, 1) * stride, length)
    step = max((tile - overlap) // stride, 1)
    cells, tile_cells = length // stride, tile // stride
    count = 1 + -(-(cells - tile_cells) // step)
    starts = [round(index * (cells - tile_cells) / max(count - 1, 1)) * stride for index in range(count)]
    return starts, tile


def _bell(length: int) -> Float32[Tensor, "N"]:
    # Sigma an eighth of the tile, as nnU-Net; the floor keeps the weights of corner pixels away from 0.
    position = torch.arange(length) - (length - 1) / 2
    return torch.exp(-0.5 * (position / (length / 8)) ** 2).clamp_min(1e-3)
