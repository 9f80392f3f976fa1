"""Decode the bytes of an image file: TIFF with tifffile, the other formats with Pillow, 16-bit PNG with imagecodecs."""

import io
import logging
import warnings
from dataclasses import dataclass, replace

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as PillowImage

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, so that a small file cannot fill the memory; the limit of Pillow."""
MAX_CHANNELS = 64
"""Longest axis that counts as channels where a TIFF file does not name its axes."""

_PNG_END = b"IEND\xaeB`\x82"
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
ORIENTATION_TAG = 274
"""Of EXIF and TIFF."""


class FormatError(ValueError):
    """A file that was understood but is not one image; the message says what to do."""


@dataclass(frozen=True)
class Decoded:
    """What a file holds before anything is made of it.

    Attributes:
        pixels: (H, W) or (H, W, C) in upright orientation, in the type of the file.
        palette: RGBA color of each of 256 indices, (256, 4) uint8; None if pixels are not indices.
        has_alpha: The last channel is transparency.
        gray_step: Factor by which decoding has stretched a 2- or 4-bit gray image; 1 for all others.
        is_lossy: The format changes values when it saves: JPEG or lossy WebP.
    """

    pixels: np.ndarray
    palette: np.ndarray | None = None
    has_alpha: bool = False
    gray_step: int = 1
    is_lossy: bool = False


def is_tiff(data: bytes) -> bool:
    """Whether the bytes start as TIFF or BigTIFF does."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def decode_with_pillow(data: bytes) -> Decoded:
    """Decode PNG, JPEG, BMP or WebP.

    Raises:
        FormatError: If a PNG file ends before its last chunk.
    """
    # Large images are wanted here; beyond MAX_PIXELS Pillow raises.
    warnings.filterwarnings("ignore", category=PillowImage.DecompressionBombWarning)
    with PillowImage.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
        if image.format == "PNG" and _PNG_END not in data:
            raise FormatError("the PNG file is cut short, but a complete file is needed; copy or export it again")
        image.load()
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
        decoded = _decode_deep_png(data) if image.format == "PNG" and data[24] == 16 else _decode_mode(image, data)
    upright = np.ascontiguousarray(turn_upright(decoded.pixels, orientation))
    is_lossy = data[:2] == b"\xff\xd8" or (data[:4] == b"RIFF" and b"VP8 " in data[:64])
    return replace(decoded, pixels=upright, is_lossy=is_lossy)


def _decode_deep_png(data: bytes) -> Decoded:
    # Pillow reduces 16-bit color to 8 bits without a word.
    pixels = imagecodecs.png_decode(data)
    return Decoded(pixels, has_alpha=pixels.ndim == 3 and pixels.shape[2] in (2, 4))


def _decode_mode(image: PillowImage.Image, data: bytes) -> Decoded:
    if image.mode == "P":
        image.apply_transparency()
        colors = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)[:256]
        palette = np.zeros((256, 4), np.uint8)
        palette[: len(colors)] = colors
        return Decoded(np.array(image), palette, has_alpha=True)
    if image.mode == "1":
        return Decoded(np.array(image.convert("L")))
    if image.mode == "L":
        is_shallow = image.format == "PNG" and data[24] in (2, 4)
        return Decoded(np.array(image), gray_step=255 // (2 ** data[24] - 1) if is_shallow else 1)
    if image.mode in ("LA", "RGBA"):
        return Decoded(np.array(image), has_alpha=True)
    if image.mode in ("RGB", "I;16", "I", "F"):
        return Decoded(np.array(image))
    return Decoded(np.array(image.convert("RGB")))


def decode_tiff(data: bytes) -> Decoded:
    """Decode the one full-size image of a TIFF file, whatever its channels and their order.

    An axis that the file does not name counts as channels if it is the first or the last, is shorter than the other
    two, and has at most `MAX_CHANNELS` entries.

    Raises:
        FormatError: If the file holds several images, a volume, or an image that is too large, or is cut short.
    """
    # tifffile logs what it raises anyway, and logging prints to stderr.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = [one for one in file.series if not one.keyframe.is_reduced]
        if len(series) != 1:
            raise FormatError(f"the TIFF file holds {len(series)} images, but one is needed; save each in its own file")
        page = series[0].keyframe
        num_pixels = page.imagewidth * page.imagelength
        if num_pixels > MAX_PIXELS:
            raise FormatError(f"the image has {num_pixels:,} pixels, but {MAX_PIXELS:,} are allowed; cut it into parts")
        check_complete(series[0], len(data))
        pixels = put_channels_last(series[0].asarray(maxworkers=1), series[0].axes)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind in "bu":
            pixels = ~pixels if pixels.dtype.kind == "b" else np.iinfo(pixels.dtype).max - pixels
        orientation = page.tags.valueof(ORIENTATION_TAG, default=1)
        is_color = page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK)
        # 1 and 2 are the two kinds of transparency; 0 is any other extra channel, such as infrared.
        has_alpha = is_color and bool(page.extrasamples) and int(page.extrasamples[-1]) in (1, 2)
        palette = tiff_palette(page) if page.photometric == tifffile.PHOTOMETRIC.PALETTE else None
        has_alpha |= palette is not None  # the palette has a fourth channel, which is opaque
    return Decoded(np.ascontiguousarray(turn_upright(pixels, int(orientation))), palette, has_alpha)


def check_complete(series: tifffile.TiffPageSeries, num_bytes: int) -> None:
    """Refuse a TIFF file that ends before its pixels do.

    Raises:
        FormatError: If it is cut short.
    """
    ends = [0]
    for page in series.pages:
        if page is not None:
            ends += [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends) > num_bytes:
        raise FormatError("the TIFF file is cut short, but a complete file is needed; copy or export it again")


def put_channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    """One image of a TIFF file as (H, W) or (H, W, C), from the letters that tifffile gives its axes.

    Raises:
        FormatError: If it is a stack, or the channels cannot be told.
    """
    for axis in reversed(range(pixels.ndim)):
        if pixels.shape[axis] == 1 and axes[axis] not in "YX":
            pixels, axes = pixels.squeeze(axis), axes[:axis] + axes[axis + 1 :]
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim != 3 or set(axes) & set("ZT"):
        raise FormatError(
            f"the TIFF file is a stack of shape {pixels.shape} (axes {axes}), but one image is needed; "
            "save each slice in its own file"
        )
    if any(letter in axes for letter in "SC"):
        channel_axis = next(axes.index(letter) for letter in "SC" if letter in axes)
    else:
        channel_axis = 0 if pixels.shape[0] < pixels.shape[2] else 2
        if pixels.shape[channel_axis] > min(MAX_CHANNELS, *pixels.shape):
            raise FormatError(
                f"the TIFF file has shape {pixels.shape} without saying which axis holds the channels; "
                f"save it as (H, W, C) with at most {MAX_CHANNELS} channels"
            )
    return np.moveaxis(pixels, channel_axis, -1)


def tiff_palette(page: tifffile.TiffPage) -> np.ndarray:
    """RGBA of 256 indices, (256, 4) uint8."""
    palette = np.full((256, 4), 255, np.uint8)
    colors = np.asarray(page.colormap)  # 3 N
    # The specification stores 16 bits; writers that store 8 are common.
    colors = colors >> 8 if colors.max() > 255 else colors
    palette[: colors.shape[1], :3] = colors.T[:256]
    return palette


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror pixels by their EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
