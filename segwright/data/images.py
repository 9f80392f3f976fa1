"""Read one image or one stored mask; a damaged file is an error, never half an image."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import UInt
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from segwright.data.colors import Color
from segwright.data.formats import MAX_PIXELS, Decoded, FormatError, decode_tiff, decode_with_pillow, is_tiff
from segwright.types import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
"""Suffixes of files that are looked at, in lower case."""

# What the decoders raise on damaged bytes, found by cutting and overwriting files (tests/data/test_images.py).
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    tifffile.TiffFileError,
)
"""What the decoders raise on damaged bytes."""


class UnreadableFileError(ValueError):
    """A file that cannot be used as an image or a mask.

    Attributes:
        path: The file.
        reason: What came, what is needed and what to do, without the name of the file.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(path: Path) -> Image:
    """Read PNG, JPEG, TIFF, BMP or WebP as (H, W, C), upright by its EXIF orientation.

    uint8 and uint16 stay, all other numbers become float32, and 1-bit images become uint8 0 and 255. Gray images have
    one channel, palettes become RGB, CMYK becomes RGB. A transparency channel that is fully opaque is dropped; any
    other is kept as the last channel.

    Raises:
        UnreadableFileError: If the file is damaged, cut short, no image, or not one image.
    """
    decoded = _decode(path)
    pixels = decoded.pixels if decoded.palette is None else decoded.palette[decoded.pixels]
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels  # H W C
    if decoded.has_alpha and is_opaque(pixels[..., -1]):
        pixels = pixels[..., :-1]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind not in "iuf":
        raise UnreadableFileError(path, f"the pixels are {pixels.dtype}, but real numbers are needed; save as float32")
    elif pixels.dtype not in (np.uint8, np.uint16):
        pixels = pixels.astype(np.float32)
    return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class StoredMask:
    """A mask before its values mean classes.

    Attributes:
        values: (H, W) uint8 or uint16, or colors as (H, W, 3) uint8.
        palette: The 256 colors of a palette file, whose values are indices; else None.
        in_rgb: The file has three channels; if they are equal, values has one.
        is_lossy: The format changes values when it saves: JPEG or lossy WebP.
    """

    values: UInt[np.ndarray, "H W"] | UInt[np.ndarray, "H W 3"]
    palette: tuple[Color, ...] | None
    in_rgb: bool
    is_lossy: bool


def read_stored_mask(
    path: Path,
) -> tuple[UInt[np.ndarray, "H W"] | UInt[np.ndarray, "H W 3"], tuple[Color, ...] | None]:
    """Read the values of a mask as they are stored, before they mean classes.

    Palette files give their indices. RGB with three equal channels gives one channel. 2- and 4-bit gray gives the
    stored numbers, 1-bit gives 0 and 255.

    Returns:
        Values as (H, W) uint8 or uint16, or colors as (H, W, 3) uint8; and the 256 colors of the palette, if any.

    Raises:
        UnreadableFileError: If the file is damaged, holds fractions or negative values, or is partly transparent.
    """
    mask = read_mask_file(path)
    return mask.values, mask.palette


def read_mask_file(path: Path) -> StoredMask:
    """As `read_stored_mask`, with what else the file tells."""
    decoded = _decode(path)
    pixels = decoded.pixels // decoded.gray_step if decoded.gray_step > 1 else decoded.pixels
    if decoded.palette is not None:
        palette = tuple((int(r), int(g), int(b)) for r, g, b, _ in decoded.palette)
        return StoredMask(pixels, palette, False, decoded.is_lossy)
    if decoded.has_alpha and pixels.ndim == 3:
        if not is_opaque(pixels[..., -1]):
            raise UnreadableFileError(
                path, "the mask is partly transparent, but labels need plain values; save it without transparency"
            )
        pixels = pixels[..., :-1]
    in_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3:
        pixels = _collapse_equal_channels(pixels, path)
    return StoredMask(np.ascontiguousarray(_as_labels(pixels, path)), None, in_rgb, decoded.is_lossy)


def _decode(path: Path) -> Decoded:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(
            path, f"the file cannot be opened ({error.strerror}); check its path and permissions"
        ) from error
    if not data:
        raise UnreadableFileError(path, "the file is empty (0 bytes), but an image is needed; copy or export it again")
    try:
        decoded = decode_tiff(data) if is_tiff(data) else decode_with_pillow(data)
    except FormatError as error:
        raise UnreadableFileError(path, str(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableFileError(
            path, "the file is not a PNG, JPEG, TIFF, BMP or WebP image; convert it to one, for example PNG"
        ) from error
    except PillowImage.DecompressionBombError as error:
        raise UnreadableFileError(
            path, f"the image is too large, at most {MAX_PIXELS:,} pixels are read; cut it into parts"
        ) from error
    except DAMAGE as error:
        raise UnreadableFileError(
            path, "the image is damaged or cut short, but a complete file is needed; copy or export it again"
        ) from error
    if 0 in decoded.pixels.shape:
        raise UnreadableFileError(path, "the image has no pixels, but at least one is needed; export it again")
    return decoded


def is_opaque(alpha: np.ndarray) -> bool:
    """Whether a transparency channel hides nothing."""
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    return bool((alpha == opaque).all())


def _collapse_equal_channels(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.shape[2] == 1 or (pixels[..., :1] == pixels[..., 1:]).all():
        return pixels[..., 0]
    if pixels.shape[2] != 3:
        raise UnreadableFileError(
            path, f"the mask has {pixels.shape[2]} channels, but 1, or 3 for colors, are needed; save one label a pixel"
        )
    if pixels.dtype.kind not in "ui" or pixels.min() < 0 or pixels.max() > 255:
        raise UnreadableFileError(
            path, f"the mask has {pixels.dtype} colors, but 8-bit colors are needed; save it as 8-bit RGB"
        )
    return pixels.astype(np.uint8)


def _as_labels(pixels: np.ndarray, path: Path) -> np.ndarray:
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "ui":
        raise UnreadableFileError(
            path, f"the mask holds {pixels.dtype} numbers, but labels are whole numbers; save it as 8-bit integers"
        )
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.min() < 0 or pixels.max() > 65535:
        raise UnreadableFileError(
            path,
            f"the mask holds values from {pixels.min()} to {pixels.max()}, but 0 to 65535 are read; "
            "save labels as 8-bit integers, void as 255",
        )
    return pixels.astype(np.uint16)
