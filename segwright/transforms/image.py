"""Random changes of an image and its mask: the whole geometric chain is one resampling."""

import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, Float64, UInt8

from segwright.transforms._mixing import Mix, Mixing, list_classes
from segwright.types import IGNORE_LABEL, Image, Sample

_MOST_CHANNELS = 4  # OpenCV's warps take at most four channels at a time


class ImageTransform:
    """Scales, rotates, flips, bends and crops in one resampling, then changes light and color; may mix two such views.

    Args:
        crop: Size (height, width) of what comes out; None is the size of the image, for a plan to fill in.
        scale: Range of the zoom, drawn log-uniformly; 2 shows an object twice as large.
        rotation_degrees: Largest angle to either side; None lets the data decide.
        flip_horizontal: Mirror left and right in half of the samples; None lets the data decide.
        flip_vertical: Mirror top and bottom in half of the samples; None lets the data decide.
        elastic_px: Standard deviation of the displacement of a coarse grid of control points, in pixels; None
            lets the data decide.
        elastic_grid_px: Distance of the control points.
        light: Strength of brightness, contrast and gamma changes; 0 is none, 1 is up to a quarter of the range.
        color: Strength of saturation and hue changes; only for three channels.
        noise: Largest standard deviation of additive noise as a share of the range of the values.
        rare_crops: Share of the crops that lie around a random pixel of a random class of the image, each class equally
            likely whatever its size; 0 to 1, for small objects. The others lie anywhere.
        mix: What is pasted from another view, see `transforms._mixing`.
        mix_share: Share of the views that something is pasted into, 0 to 1.

    Raises:
        ValueError: If `scale`, `rare_crops`, `mix` or `mix_share` is out of its range.

    Source: scales as DeepLab (Chen et al., PAMI 2018); grid deformation as U-Net (Ronneberger et al., MICCAI 2015);
    crops around classes after nnU-Net (Isensee et al., Nature Methods 2021).
    """

    def __init__(
        self,
        *,
        crop: tuple[int, int] | None = None,
        scale: tuple[float, float] = (0.75, 1.5),
        rotation_degrees: float | None = None,
        flip_horizontal: bool | None = None,
        flip_vertical: bool | None = None,
        elastic_px: float | None = None,
        elastic_grid_px: int = 64,
        light: float = 0.5,
        color: float = 0.25,
        noise: float = 0.02,
        rare_crops: float = 0.0,
        mix: Mix = "none",
        mix_share: float = 0.5,
    ) -> None:
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"transform.scale is {scale}, but needs 0 < smallest <= largest; try (0.5, 2.0)")
        if not 0 <= rare_crops <= 1:
            raise ValueError(f"transform.rare_crops is {rare_crops}, but a share from 0 to 1 is needed; try 0.5")
        self.crop = crop
        self.scale = scale
        self.rotation_degrees = rotation_degrees or 0.0
        self.flip_horizontal = bool(flip_horizontal)
        self.flip_vertical = bool(flip_vertical)
        self.elastic_px = elastic_px or 0.0
        self.elastic_grid_px = elastic_grid_px
        self.light = light
        self.color = color
        self.noise = noise
        self.rare_crops = rare_crops
        self.mixing = Mixing(mix, mix_share)

    def __call__(self, sample: Sample, rng: np.random.Generator, partner: Callable[[], Sample] | None = None) -> Sample:
        """A random view of a sample; the same `rng` state gives the same view.

        Args:
            sample: An image with its mask.
            rng: Source of all that is random.
            partner: Reads the sample that a part is pasted from; only views that are mixed need and ask it.

        Raises:
            ValueError: If `mix` is on and no partner came.
        """
        crop = self.crop or (sample.image.shape[0], sample.image.shape[1])
        view = self._view(sample, crop, rng)
        if self.mixing.mix == "none":
            return view
        if partner is None:
            raise ValueError(
                f"transform.mix is '{self.mixing.mix}', but no partner came to paste from; give one, or mix='none'"
            )
        return self.mixing(view, lambda: self._view(partner(), crop, rng), rng)

    def _view(self, sample: Sample, crop: tuple[int, int], rng: np.random.Generator) -> Sample:
        assert sample.mask is not None
        matrix = self._to_source(sample.mask, crop, rng)
        bend = self._bend(crop, rng) if self.elastic_px > 0 else None
        image = warp_image(sample.image, matrix, crop, bend)
        mask = warp_mask(sample.mask, matrix, crop, bend)
        return Sample(sample.name, self._relight(image, rng), mask)

    def _to_source(
        self, mask: UInt8[np.ndarray, "h w"], crop: tuple[int, int], rng: np.random.Generator
    ) -> Float32[np.ndarray, "2 3"]:
        """Matrix from pixels (x, y) of the crop to pixels of the image."""
        zoom = math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        angle = math.radians(rng.uniform(-self.rotation_degrees, self.rotation_degrees))
        mirror_x = -1.0 if self.flip_horizontal and rng.random() < 0.5 else 1.0
        mirror_y = -1.0 if self.flip_vertical and rng.random() < 0.5 else 1.0
        linear = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) / zoom
        linear = linear * np.array([mirror_x, mirror_y])
        center = self._center(mask, crop, zoom, linear, rng)
        middle = np.array([(crop[1] - 1) / 2, (crop[0] - 1) / 2])
        offset = center - 0.5 - linear @ middle
        return np.column_stack([linear, offset]).astype(np.float32)

    def _center(
        self,
        mask: UInt8[np.ndarray, "h w"],
        crop: tuple[int, int],
        zoom: float,
        linear: Float64[np.ndarray, "2 2"],
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, "2"]:
        """Point (x, y) of the image in the middle of the crop; (0, 0) is the outer corner of the first pixel."""
        size, shown = np.array(mask.shape[::-1]), np.array(crop[::-1])
        half = shown / zoom / 2
        # The crop stays inside the image, or in its middle if it cannot.
        low, high = np.minimum(half, size / 2), np.maximum(size - half, size / 2)
        pixel = _draw_pixel(mask, rng) if self.rare_crops > 0 and rng.random() < self.rare_crops else None
        if pixel is None:
            return np.array([rng.uniform(a, b) if a < b else a for a, b in zip(low, high, strict=True)])
        # The pixel comes anywhere into the middle half of the crop, so that its place tells a network nothing.
        inside = (pixel - linear @ rng.uniform(-shown / 4, shown / 4)).clip(low, high)
        # A turned crop that was pushed back into the image may have lost it.
        most = (shown - zoom) / 2
        place = np.linalg.solve(linear, pixel - inside).clip(-most, most)
        center: Float64[np.ndarray, "2"] = pixel - linear @ place
        return center

    def _bend(self, crop: tuple[int, int], rng: np.random.Generator) -> Float32[np.ndarray, "H W 2"]:
        rows, columns = (max(2, round(length / self.elastic_grid_px) + 1) for length in crop)
        control = rng.normal(0, self.elastic_px, (rows, columns, 2)).astype(np.float32)
        bend: Float32[np.ndarray, "H W 2"] = cv2.resize(control, (crop[1], crop[0]), interpolation=cv2.INTER_CUBIC)
        return bend

    def _relight(self, image: Image, rng: np.random.Generator) -> Image:
        brightness, contrast, gamma = (float(change) for change in rng.uniform(-0.25, 0.25, 3) * self.light)
        saturation, hue = (float(change) for change in rng.uniform(-1, 1, 2) * self.color)
        sigma = rng.uniform(0, self.noise) if rng.random() < 0.5 else 0.0
        seed = int(rng.integers(2**31))
        if self.color > 0 and image.shape[2] == 3:
            image = _recolor(image, 1 + saturation, 0.35 * hue)
        if image.dtype == np.uint8:
            levels = _curve(np.linspace(0, 1, 256, dtype=np.float32), brightness, 1 + contrast, math.exp(2 * gamma))
            image = cv2.LUT(image, np.rint(255 * levels).astype(np.uint8)).reshape(image.shape)
        else:
            # Without a known range of values only the linear part of the change makes sense.
            spread = float(image.std()) or 1.0
            image = _like(image, image * np.float32(1 + contrast) + np.float32(brightness * spread))
        return _add_noise(image, sigma, seed) if sigma > 0 else image


def warp_image(
    image: Image,
    matrix: Float32[np.ndarray, "2 3"],
    size: tuple[int, int],
    bend: Float32[np.ndarray, "H W 2"] | None = None,
) -> Image:
    """Resample an image bilinearly; outside its border it is mirrored.

    Args:
        image: Pixels as (H, W, C).
        matrix: From pixels (x, y) of the result to pixels of the image.
        size: Height and width of the result.
        bend: Displacement (x, y) in pixels of the result, before the matrix.
    """
    groups = [image[..., first : first + _MOST_CHANNELS] for first in range(0, image.shape[2], _MOST_CHANNELS)]
    warped = [_warp(group, matrix, size, bend, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101) for group in groups]
    return np.concatenate([part.reshape(*size, -1) for part in warped], axis=2) if len(warped) > 1 else warped[0]


def warp_mask(
    mask: UInt8[np.ndarray, "h w"],
    matrix: Float32[np.ndarray, "2 3"],
    size: tuple[int, int],
    bend: Float32[np.ndarray, "H W 2"] | None = None,
) -> UInt8[np.ndarray, "H W"]:
    """Resample a mask to its nearest values, with the arguments of `warp_image`; outside its border it is void."""
    return _warp(mask[..., None], matrix, size, bend, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)[..., 0]


def _warp(
    image: Image,
    matrix: Float32[np.ndarray, "2 3"],
    size: tuple[int, int],
    bend: Float32[np.ndarray, "H W 2"] | None,
    interpolation: int,
    border: int,
) -> Image:
    image, matrix = _used_part(image, matrix, size, 0.0 if bend is None else float(np.abs(bend).max()))
    void = (IGNORE_LABEL,) * 4
    if bend is None:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        warped = cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=border, borderValue=void)
    else:
        x = bend[..., 0] + np.arange(size[1], dtype=np.float32)
        y = bend[..., 1] + np.arange(size[0], dtype=np.float32)[:, None]
        map_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
        map_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        warped = cv2.remap(image, map_x, map_y, interpolation, borderMode=border, borderValue=void)
    return np.asarray(warped).reshape(*size, image.shape[2])


def _used_part(
    image: Image, matrix: Float32[np.ndarray, "2 3"], size: tuple[int, int], reach_px: float
) -> tuple[Image, Float32[np.ndarray, "2 3"]]:
    """The part of an image that a warp reads; OpenCV cannot warp an image with a side above 32,767 pixels."""
    height, width = size
    corners = matrix[:, :2] @ np.array([[0, width, 0, width], [0, 0, height, height]]) + matrix[:, 2:]
    reach = reach_px * float(np.abs(matrix[:, :2]).sum(axis=1).max()) + 2
    low = np.floor(corners.min(axis=1) - reach).astype(int).clip(0)
    high = np.ceil(corners.max(axis=1) + reach).astype(int)
    x, y = min(low[0], image.shape[1] - 1), min(low[1], image.shape[0] - 1)
    part = np.ascontiguousarray(image[y : max(high[1], y + 1), x : max(high[0], x + 1)])
    moved = matrix.copy()
    moved[:, 2] -= (x, y)
    return part, moved


def _draw_pixel(mask: UInt8[np.ndarray, "H W"], rng: np.random.Generator) -> Float64[np.ndarray, "2"] | None:
    """Middle (x, y) of a random pixel of a random class; None if all is void."""
    classes = list_classes(mask)
    if not len(classes):
        return None
    pixels = np.flatnonzero(mask == rng.choice(classes))
    row, column = divmod(int(rng.choice(pixels)), mask.shape[1])
    return np.array([column + 0.5, row + 0.5])


def _recolor(image: Image, saturation: float, hue: float) -> Image:
    """Scale the distance from gray and turn around the gray axis by an angle in radians, as one 3x3 matrix."""
    gray = np.full((3, 3), 1 / 3)
    axis = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(hue) * (np.eye(3) - gray) + math.sin(hue) * axis
    return np.asarray(cv2.transform(image, gray + saturation * turn))


def _curve(
    value: Float32[np.ndarray, "N"], brightness: float, contrast: float, gamma: float
) -> Float32[np.ndarray, "N"]:
    curved: Float32[np.ndarray, "N"] = np.clip((value - 0.5) * contrast + 0.5 + brightness, 0, 1) ** np.float32(gamma)
    return curved


def _add_noise(image: Image, sigma: float, seed: int) -> Image:
    # OpenCV's generator is one a thread, and ten times as fast as numpy's; the seed makes a sample independent of both.
    cv2.setRNGSeed(seed)
    if image.dtype == np.uint8:
        noise = np.empty((image.shape[0], image.shape[1] * image.shape[2]), np.int16)
        cv2.randn(noise, 0, 255 * sigma)  # type: ignore[call-overload]
        return np.asarray(cv2.add(image.reshape(noise.shape), noise, dtype=cv2.CV_8U)).reshape(image.shape)
    noise = np.empty((image.shape[0], image.shape[1] * image.shape[2]), np.float32)
    cv2.randn(noise, 0, sigma * float(image.max() - image.min()))  # type: ignore[call-overload]
    return _like(image, image + noise.reshape(image.shape))


def _like(image: Image, changed: np.ndarray) -> Image:
    """Values in the type of the image, rounded and clipped if it holds integers."""
    if image.dtype.kind != "u":
        return np.asarray(changed, image.dtype)
    limits = np.iinfo(image.dtype)
    return np.asarray(np.rint(changed).clip(limits.min, limits.max), image.dtype)


build = ImageTransform
