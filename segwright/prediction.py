"""The one way in to predictions: arrays, files, folders and globs; writes masks, overlays and probabilities."""

import glob
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import tifffile

from segwright.data.formats import is_tiff
from segwright.data.images import IMAGE_SUFFIXES, read_image
from segwright.files import write_whole
from segwright.inference.augment import add_views
from segwright.inference.overlay import overlay
from segwright.inference.segmenter import Segmenter
from segwright.inference.tiles import Prediction, predict_image
from segwright.layers.hardware import choose_device
from segwright.types import Image

Output = Literal["mask", "overlay", "probabilities"]
Tag = tuple[int, int, int, object, bool]

_GEOREFERENCE_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""GeoTIFF: pixel scale, tie points, transformation, keys and their values. Source: OGC 19-008r4, section 7."""


@dataclass
class Written:
    """What a prediction over files did.

    Attributes:
        done: Files that were written.
        failed: Reason by file that could not be segmented.
    """

    done: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def load(folder: Path | str, device: Literal["auto", "cpu", "cuda"] = "auto") -> Segmenter:
    """Read a segmenter from its folder or from the folder of a run, without the training data.

    Args:
        folder: Where it is.
        device: Where it computes; "auto" takes a GPU if there is one.

    Raises:
        ValueError: If the folder holds no segmenter, or a damaged one, or the GPU that is asked for is absent.
    """
    segmenter = Segmenter.load(Path(folder))
    return segmenter.to(choose_device(device))


def predict(
    segmenter: Segmenter,
    image: Image | Path | str,
    *,
    probabilities: bool = False,
    augment: str = "none",
    precision: str = "auto",
) -> Prediction:
    """Segment one image of any size.

    Args:
        segmenter: From `segwright.load`.
        image: A file, or raw pixels as (H, W, C) or (H, W) in the type of the training images.
        probabilities: Return the probability of each class too.
        augment: Views to average, a name of `inference.augment.PRESETS`.
        precision: "bf16", "fp32", or "auto": bf16 where the processor has it in hardware.

    Raises:
        ValueError: If the file cannot be read, the image does not fit the segmenter, or `augment` is not known.
    """
    pixels = read_image(Path(image)) if isinstance(image, str | Path) else image
    return predict_image(add_views(segmenter, augment), pixels, probabilities=probabilities, precision=precision)


def find_images(source: str) -> list[Path]:
    """Image files that a path, a folder (with its subfolders) or a glob names, sorted.

    Raises:
        ValueError: If there is none.
    """
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != "."]
    elif path.exists():
        return [path]
    else:
        found = [Path(name) for name in glob.glob(source, recursive=True) if Path(name).is_file()]
    if not found:
        what = "has no images" if path.is_dir() else "does not exist and matches no file"
        raise ValueError(f"{source} {what}; give an image, a folder of images or a quoted glob such as 'new/*.png'")
    return sorted(found)


def predict_files(
    segmenter: Segmenter,
    images: Iterable[Path],
    out: Path,
    *,
    output: Output = "mask",
    augment: str = "none",
    precision: str = "auto",
    progress: Callable[[Path], None] | None = None,
) -> Written:
    """Segment files one after the other; a file that cannot be segmented is named and the others are done.

    A mask is an 8-bit gray PNG of class indices, of the size of the image as it is shown (EXIF orientation applied);
    that of a georeferenced TIFF is a TIFF with the same georeference. `classes.json` beside them names the indices.
    Each file is written whole or not at all.

    Args:
        segmenter: From `segwright.load`.
        images: Files to segment.
        out: Folder to write to.
        output: "mask", "overlay" (PNG with the class colors over the image) or "probabilities" (.npz, float16, K H W).
        augment: As for `predict`.
        precision: As for `predict`.
        progress: Called with each file after it.

    Raises:
        ValueError: If `augment` is not known.
        OSError: If the results cannot be written, for example on a full disk.
    """
    images, predictor = list(images), add_views(segmenter, augment)
    out.mkdir(parents=True, exist_ok=True)
    names = {"names": segmenter.classes.names, "colors": segmenter.classes.colors}
    write_whole(out / "classes.json", json.dumps(names, indent=1).encode())
    written = Written()
    for image, stem in zip(images, _output_stems(images), strict=True):
        try:
            pixels = read_image(image)
            prediction = predict_image(predictor, pixels, probabilities=output == "probabilities", precision=precision)
            tags = _georeference(image) if output == "mask" else []
        except ValueError as error:
            written.failed[image] = str(error)
        else:
            written.done.append(_write(out / stem, pixels, prediction, segmenter, output, tags))
        if progress:
            progress(image)
    return written


def _output_stems(images: list[Path]) -> list[Path]:
    """Where results go inside the folder: subfolders stay, and images that differ in their suffix only keep it."""
    parents = [str(image.parent.absolute()) for image in images]
    root = Path(os.path.commonpath(parents)) if parents else Path()
    stems = [image.absolute().relative_to(root).with_suffix("") for image in images]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    return [
        stem.with_name(image.name.replace(".", "_")) if stem in shared else stem
        for image, stem in zip(images, stems, strict=True)
    ]


def _write(
    path: Path, pixels: Image, prediction: Prediction, segmenter: Segmenter, output: Output, tags: list[Tag]
) -> Path:
    # Path.with_suffix would cut names such as scan.v2; the suffix is appended instead.
    path.parent.mkdir(parents=True, exist_ok=True)
    if output == "probabilities":
        assert prediction.probabilities is not None
        buffer = io.BytesIO()
        np.savez_compressed(buffer, probabilities=prediction.probabilities.astype(np.float16))
        return write_whole(path.with_name(path.name + ".npz"), buffer.getvalue())
    if output == "overlay":
        colored = overlay(pixels, prediction.mask, segmenter.classes)
        return write_whole(path.with_name(path.name + "_overlay.png"), _png(colored[..., ::-1]))
    if tags:
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, prediction.mask, compression="zlib", extratags=tags, metadata=None)
        return write_whole(path.with_name(path.name + ".tif"), buffer.getvalue())
    return write_whole(path.with_name(path.name + ".png"), _png(prediction.mask))


def _png(image: np.ndarray) -> bytes:
    is_encoded, content = cv2.imencode(".png", image)
    assert is_encoded
    return content.tobytes()


def _georeference(image: Path) -> list[Tag]:
    """The GeoTIFF tags of a file as tifffile writes them: code, type, count, value, on the first page only."""
    if image.suffix.lower() not in (".tif", ".tiff") or not is_tiff(image.read_bytes()[:4]):
        return []
    with tifffile.TiffFile(image) as file:
        tags = file.pages.first.tags
        return [
            (code, int(tags[code].dtype), int(tags[code].count), tags[code].value, True)
            for code in _GEOREFERENCE_TAGS
            if code in tags
        ]
