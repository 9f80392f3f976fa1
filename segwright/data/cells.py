"""A data set that the package draws itself: stained cells under a microscope, some of them dividing.

It needs no download, so that the first command a person types works anywhere. The pictures are as hard as real ones
where it matters: uneven light, stain that varies from slide to slide, touching and overlapping cells, blur, noise,
debris as dark as a nucleus, and a class that has one to two pixels in a hundred.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

NAMES = ("background", "cell", "dividing cell")
COLORS = ((230, 226, 214), (0, 150, 136), (255, 160, 0))
_CELL, _DIVIDING = 1, 2
_HEADER = "# Stained cells under a microscope, drawn by segwright.data.cells; no real specimen.\n"

# Optical density of one unit of stain in red, green and blue.
# Source: Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, 2001, table 1.
_HEMATOXYLIN = np.array([0.65, 0.70, 0.29], np.float32)
_EOSIN = np.array([0.07, 0.99, 0.11], np.float32)


def write_cells(
    folder: Path, num_train: int = 48, num_val: int = 12, size: tuple[int, int] = (256, 256), seed: int = 0
) -> None:
    """Draws a data set into `images/{train,val}`, `masks/{train,val}` and `dataset.yaml`.

    Args:
        folder: Created if missing; files with the same names are replaced.
        num_train: Number of training pairs.
        num_val: Number of validation pairs; the same ones whatever `num_train` is.
        size: Height and width in pixels, each at least 64.
        seed: The same seed writes the same files.

    Raises:
        ValueError: If a side is shorter than 64 pixels, which holds no whole cell.
    """
    if min(size) < 64:
        raise ValueError(f"size is {size[0]} x {size[1]}, but a cell needs sides of at least 64 pixels")
    for split_index, (split, count) in enumerate((("train", num_train), ("val", num_val))):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, mask = draw_cells(size, np.random.default_rng((seed, split_index, index)))
            name = f"{split}_{index:03d}.png"
            _write_png(folder / "images" / split / name, image[..., ::-1])
            _write_png(folder / "masks" / split / name, mask)
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    colors = "".join(f"  {index}: {list(color)}\n" for index, color in enumerate(COLORS))
    (folder / "dataset.yaml").write_text(f"{_HEADER}names:\n{names}colors:\n{colors}", encoding="utf-8")


def _write_png(path: Path, pixels: UInt8[np.ndarray, "..."]) -> None:
    # Encoded in memory: OpenCV cannot open every path on every system, and reports a failed write only by False.
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 2])[1]
    path.write_bytes(encoded.tobytes())


def draw_cells(
    size: tuple[int, int], generator: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """One field of view and its mask.

    Args:
        size: Height and width in pixels.
        generator: Source of all that varies.

    Returns:
        RGB image, and mask with the indices of `NAMES`.
    """
    slide = _Slide.empty(size, generator)
    area = size[0] * size[1]
    _scatter_debris(slide, generator, count=int(generator.poisson(area / 7000)))
    num_cells = max(2, round(area / 65536 * generator.uniform(14, 34)))
    num_dividing = int(generator.poisson(1.25 * area / 65536))
    centers = _place(size, num_cells + num_dividing, generator)
    is_dividing = generator.permutation(len(centers)) < num_dividing
    for center, dividing in zip(centers, is_dividing, strict=True):
        (_draw_dividing if dividing else _draw_cell)(slide, center, generator)
    return _photograph(slide, generator), slide.mask


@dataclass(frozen=True)
class _Slide:
    """Stain on the glass: two densities a pixel, and the class that is there."""

    hematoxylin: Float32[np.ndarray, "H W"]
    eosin: Float32[np.ndarray, "H W"]
    mask: UInt8[np.ndarray, "H W"]

    @classmethod
    def empty(cls, size: tuple[int, int], generator: np.random.Generator) -> "_Slide":
        """Glass with a thin film of stained medium: clouds, grain and a few streaks."""
        film = 0.05 + 0.028 * _clouds(size, 55, generator) + 0.014 * _clouds(size, 6, generator)
        streaks = _clouds((size[0], max(2, size[1] // 14)), 3, generator)
        film = film + 0.006 * cv2.resize(streaks, size[::-1], interpolation=cv2.INTER_CUBIC)
        hematoxylin = 0.05 + 0.022 * _clouds(size, 38, generator) + 0.012 * _clouds(size, 4, generator)
        return cls(np.clip(hematoxylin, 0, None), np.clip(film, 0, None), np.zeros(size, np.uint8))


def _clouds(size: tuple[int, int], grain: float, generator: np.random.Generator) -> Float32[np.ndarray, "H W"]:
    """Smooth noise around 0 with a deviation near 1; `grain` is the size of its lumps in pixels."""
    grid = (math.ceil(size[0] / grain) + 2, math.ceil(size[1] / grain) + 2)
    coarse = generator.standard_normal(grid, dtype=np.float32) * 1.3
    smooth = cv2.resize(coarse, None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(smooth[: size[0], : size[1]])


def _place(size: tuple[int, int], count: int, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Centers in loose clusters, as cells settle; most keep a distance at which they just touch."""
    centers: list[tuple[float, float]] = []
    for _ in range(count * 12):
        if len(centers) == count:
            break
        if centers and generator.random() < 0.6:
            y, x = centers[int(generator.integers(len(centers)))]
            angle, step = generator.uniform(0, 2 * math.pi), generator.uniform(26, 40)
            y, x = y + step * math.sin(angle), x + step * math.cos(angle)
        else:
            y, x = generator.uniform(0, size[0]), generator.uniform(0, size[1])
        nearest = min((math.hypot(y - other[0], x - other[1]) for other in centers), default=math.inf)
        if nearest > 25 and -6 < y < size[0] + 6 and -6 < x < size[1] + 6:
            centers.append((y, x))
    return centers


@dataclass(frozen=True)
class _Patch:
    """A window of the slide around a center, with coordinates relative to it."""

    window: tuple[slice, slice]
    y: Float32[np.ndarray, "h 1"]
    x: Float32[np.ndarray, "1 w"]

    @classmethod
    def around(cls, center: tuple[float, float], reach: float, size: tuple[int, int]) -> "_Patch":
        top, left = (max(0, math.floor(middle - reach)) for middle in center)
        bottom, right = (min(side, math.ceil(middle + reach)) for middle, side in zip(center, size, strict=True))
        y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(center[0])
        x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(center[1])
        return cls((slice(top, bottom), slice(left, right)), y, x)

    @property
    def size(self) -> tuple[int, int]:
        return self.y.size, self.x.size

    def depth(self, outline: "_Outline") -> Float32[np.ndarray, "h w"]:
        """Pixels inside the outline: positive in, negative out."""
        y, x = self.y - np.float32(outline.offset[0]), self.x - np.float32(outline.offset[1])
        angle = np.arctan2(y, x)
        radius = np.full(angle.shape, outline.radius, np.float32)
        for order, (share, phase) in enumerate(outline.waves, start=2):
            radius += np.float32(outline.radius * share) * np.cos(order * angle + np.float32(phase))
        return radius - np.hypot(y, x)


@dataclass(frozen=True)
class _Outline:
    """A closed curve: a circle with waves of order 2 (length), 3 (corners), 4, ..."""

    radius: float
    waves: tuple[tuple[float, float], ...]
    offset: tuple[float, float] = (0.0, 0.0)


def _random_outline(
    radius: float, shares: tuple[float, ...], generator: np.random.Generator, offset: tuple[float, float] = (0.0, 0.0)
) -> _Outline:
    waves = tuple((share * generator.uniform(0.3, 1), generator.uniform(0, 2 * math.pi)) for share in shares)
    return _Outline(radius, waves, offset)


def _cover(depth: Float32[np.ndarray, "h w"], softness: float = 1.0) -> Float32[np.ndarray, "h w"]:
    """Share of a pixel that is inside, with an edge `softness` pixels wide."""
    return np.clip(depth / np.float32(softness) + np.float32(0.5), 0, 1)


def _claim(
    slide: _Slide, patch: _Patch, depth: Float32[np.ndarray, "h w"], index: int, generator: np.random.Generator
) -> Bool[np.ndarray, "h w"]:
    """Marks the pixels inside as a class and returns where the cell may be drawn.

    Most neighbors push each other flat and leave a gap of one or two pixels; some lie on top of each other.
    """
    mask = slide.mask[patch.window]
    free = np.ones(mask.shape, bool)
    if generator.random() < 0.75:
        free = cv2.dilate((mask > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
    mask[(depth > 0) & free] = index
    return free


def _draw_cell(slide: _Slide, center: tuple[float, float], generator: np.random.Generator) -> None:
    """A cell at rest: grainy pink body with a rim, and a purple nucleus with lumps of chromatin."""
    radius = generator.uniform(13, 21)
    patch = _Patch.around(center, 1.7 * radius + 4, slide.mask.shape[:2])
    if min(patch.size) < 2:
        return
    body = patch.depth(_random_outline(radius, (0.24, 0.11, 0.06, 0.04), generator))
    free = _claim(slide, patch, body, _CELL, generator)
    inside = _cover(body, 1.5) * free
    strength = generator.uniform(0.5, 1.25)
    grain = 1 + 0.16 * _clouds(patch.size, 2.6, generator) + 0.16 * _clouds(patch.size, 8, generator)
    rim = np.exp(-np.square((body - 1.2) / 1.6, dtype=np.float32))
    slide.eosin[patch.window] += np.float32(strength) * inside * (0.19 * grain + 0.09 * rim)
    slide.hematoxylin[patch.window] += np.float32(strength) * inside * (0.07 * grain + 0.06 * rim)

    drift = generator.normal(0, 0.13 * radius, size=2)
    nucleus_radius = radius * generator.uniform(0.42, 0.6)
    outline = _random_outline(nucleus_radius, (0.2, 0.07, 0.03), generator, (float(drift[0]), float(drift[1])))
    depth = patch.depth(outline)
    chromatin = 1 + 0.3 * _clouds(patch.size, 2.8, generator) + 0.12 * _clouds(patch.size, 1.4, generator)
    envelope = np.exp(-np.square((depth - 0.8) / 1.1, dtype=np.float32))
    nucleus = _cover(depth, 1.8) * free * (0.36 * chromatin + 0.2 * envelope)
    for _ in range(int(generator.integers(1, 4))):
        spot = generator.normal(0, 0.3 * nucleus_radius, size=2) + drift
        blob = patch.depth(_Outline(generator.uniform(1.2, 2.4), (), (float(spot[0]), float(spot[1]))))
        nucleus = nucleus + 0.3 * _cover(blob, 2) * _cover(depth) * free
    slide.hematoxylin[patch.window] += np.float32(generator.uniform(0.7, 1.25)) * nucleus


def _draw_dividing(slide: _Slide, center: tuple[float, float], generator: np.random.Generator) -> None:
    """A cell in mitosis: round and pale, without nucleus, its chromosomes packed into dark bars or a knot."""
    radius = generator.uniform(13.5, 17.5)
    patch = _Patch.around(center, 1.6 * radius + 4, slide.mask.shape[:2])
    if min(patch.size) < 2:
        return
    stage = generator.choice(("knot", "plate", "pair"), p=(0.25, 0.45, 0.3))
    axis = generator.uniform(0, math.pi)
    stretch = 0.16 if stage == "pair" else 0.04
    body = patch.depth(_Outline(radius, ((stretch, -2 * axis), (0.03, generator.uniform(0, 6)))))
    free = _claim(slide, patch, body, _DIVIDING, generator)
    inside = _cover(body, 1.5) * free
    grain = 1 + 0.14 * _clouds(patch.size, 2.2, generator)
    rim = np.exp(-np.square((body - 1.2) / 1.4, dtype=np.float32))
    strength = np.float32(generator.uniform(0.7, 1.1))
    slide.eosin[patch.window] += strength * inside * (0.14 * grain + 0.14 * rim)
    slide.hematoxylin[patch.window] += strength * inside * (0.05 * grain + 0.06 * rim)

    along = patch.x * np.float32(math.cos(axis)) + patch.y * np.float32(math.sin(axis))
    across = patch.y * np.float32(math.cos(axis)) - patch.x * np.float32(math.sin(axis))
    ragged = 0.9 * _clouds(patch.size, 2.4, generator)
    length = radius * generator.uniform(0.52, 0.68)
    if stage == "knot":
        chromosomes = length - np.hypot(along, across) + 2.4 * ragged
    else:
        gap = radius * generator.uniform(0.3, 0.48) if stage == "pair" else 0.0
        thickness = generator.uniform(2.0, 3.2)
        bend = np.float32(0.03) * np.square(across)
        along = np.abs(np.abs(along) + bend * (stage == "pair") - np.float32(gap))
        chromosomes = np.minimum(thickness - along, length - np.abs(across)) + ragged
    slide.hematoxylin[patch.window] += np.float32(generator.uniform(0.85, 1.15)) * _cover(chromosomes, 2) * inside


def _scatter_debris(slide: _Slide, generator: np.random.Generator, count: int) -> None:
    """Stain crystals, fragments and cells out of focus: background, although as dark as what is searched for."""
    height, width = slide.mask.shape
    for _ in range(count):
        center = (generator.uniform(0, height), generator.uniform(0, width))
        out_of_focus = generator.random() < 0.3
        radius = generator.uniform(9, 17) if out_of_focus else generator.uniform(1.2, 4.5)
        patch = _Patch.around(center, 2.2 * radius + 6, (height, width))
        depth = patch.depth(_random_outline(radius, (0.3, 0.2, 0.12), generator))
        cover = _cover(depth, 0.9 * radius if out_of_focus else 1.5)
        purple, pink = generator.uniform(0.1, 1, size=2) * (0.12 if out_of_focus else 0.7)
        slide.hematoxylin[patch.window] += np.float32(purple) * cover
        slide.eosin[patch.window] += np.float32(0.6 * pink) * cover


def _photograph(slide: _Slide, generator: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Light through the slide (Beer-Lambert) and a camera: lamp, focus, color fringe, noise."""
    height, width = slide.mask.shape
    stain = generator.uniform(0.8, 1.2, size=2).astype(np.float32)
    tilt = generator.normal(0, 0.05, size=(2, 3)).astype(np.float32)
    density = slide.hematoxylin[..., None] * (stain[0] * (_HEMATOXYLIN + tilt[0]))
    density += slide.eosin[..., None] * (stain[1] * (_EOSIN + tilt[1]))
    light = np.exp(np.float32(-2.0) * density)

    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    middle, slope = generator.normal(0, 0.35, size=2), generator.normal(0, 0.06, size=2)
    fall = np.float32(generator.uniform(0.04, 0.13)) * ((y - middle[0]) ** 2 + (x - middle[1]) ** 2)
    lamp = np.float32(generator.uniform(0.86, 0.97)) * (1 - fall + slope[0] * y + slope[1] * x)
    warmth = np.array([1, 0.985, 0.955], np.float32) + generator.normal(0, 0.012, size=3)
    light = (light * lamp[..., None] * warmth).astype(np.float32)

    focus = generator.uniform(0.55, 1.35)
    light = cv2.GaussianBlur(light, (0, 0), focus, borderType=cv2.BORDER_REFLECT_101)
    shift = generator.normal(0, 0.3, size=2)
    for channel, sign in ((0, 1), (2, -1)):
        move = np.array([[1, 0, sign * shift[0]], [0, 1, sign * shift[1]]], np.float32)
        light[..., channel] = cv2.warpAffine(light[..., channel], move, (width, height), borderMode=cv2.BORDER_REFLECT)
    shot = generator.standard_normal(light.shape, dtype=np.float32)
    shot = cv2.GaussianBlur(shot, (0, 0), 0.5)  # demosaicing spreads the noise of a pixel to its neighbors
    light += np.float32(generator.uniform(0.014, 0.032)) * np.sqrt(np.clip(light, 0, None)) * shot
    image: UInt8[np.ndarray, "H W 3"] = np.clip(light * 255 + 0.5, 0, 255).astype(np.uint8)
    return image
