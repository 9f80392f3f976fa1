"""The one way in to predictions: arrays, files, folders and globs; writes masks, overlays and probabilities."""

import glob
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import tifffile

from segwright.data.images import IMAGE_SUFFIXES, UnreadableFileError, read_image
from segwright.data.mask_files import MaskFile
from segwright.data.rasters import RASTER_SUFFIXES, Tag, georeference, open_raster, raster_size
from segwright.files import write_whole
from segwright.inference.augment import PRESETS, add_views
from segwright.inference.crf import DenseCRF
from segwright.inference.overlay import overlay
from segwright.inference.predictor import Prediction, Predictor, check_image
from segwright.inference.tiles import predict_bands
from segwright.runtimes.choice import Device, Wanted, open_engine
from segwright.runtimes.folder import predictor_key
from segwright.types import Image

Output = Literal["mask", "overlay", "probabilities"]

LARGE_PIXELS = 2**25
"""Images of more pixels are read and written part by part, where their format allows it."""

_ENDINGS: dict[Output, tuple[str, ...]] = {
    "mask": (".png", ".tif", ".zarr"),
    "overlay": ("_overlay.png",),
    "probabilities": (".npz",),
}

MADE_BY = "classes.json"
"""File beside results that names the classes and says what made them."""


def load(
    folder: Path | str, *, runtime: Wanted = "auto", precision: str = "auto", device: Device = "auto"
) -> Predictor:
    """Make a segmenter ready to use, from its folder, the folder of a run, or an export; no training data is needed.

    Args:
        folder: Where it is.
        runtime: Library that computes; "auto" takes the fastest that is installed. The first time, OpenVINO and ONNX
            Runtime need some seconds to take over a network, which is kept beside it.
        precision: "bf16", "fp32", or "auto": bf16 where the hardware has it.
        device: Where it computes; "auto" takes a GPU if there is one.

    Raises:
        ValueError: If the folder holds no segmenter, or a damaged one, or what is asked for is absent.
    """
    folder = Path(folder)
    engine = open_engine(folder, runtime=runtime, precision=precision, device=device)
    return Predictor(engine, predictor_key(folder))


def predict(
    segmenter: Predictor,
    image: Image | Path | str,
    *,
    probabilities: bool = False,
    augment: str = "none",
    crf: DenseCRF | None = None,
) -> Prediction:
    """Segment one image of any size; what `segmenter.predict` does.

    Args:
        segmenter: From `segwright.load`.
        image: A file, or raw pixels as (H, W, C) or (H, W) in the type of the training images.
        probabilities: Return the probability of each class too.
        augment: Views to average, a name of `inference.augment.PRESETS`.
        crf: Refines the probabilities by the colors of the image.

    Raises:
        ValueError: If the file cannot be read, the image does not fit the segmenter, or `augment` is not known.
    """
    return segmenter.predict(image, probabilities=probabilities, augment=augment, crf=crf)


@dataclass(frozen=True)
class Options:
    """What is written for each image.

    Attributes:
        output: "mask", "overlay" (PNG with the class colors over the image) or "probabilities" (.npz, float16, K H W).
        augment: Views to average, a name of `inference.augment.PRESETS`.
        crf: Refines the probabilities by the colors of the images.

    Raises:
        ValueError: If `augment` is not known.
    """

    output: Output = "mask"
    augment: str = "none"
    crf: DenseCRF | None = None

    def __post_init__(self) -> None:
        if self.augment not in PRESETS:
            raise ValueError(f"augment is {self.augment!r}, but known are {', '.join(PRESETS)}; try flip")


@dataclass(frozen=True)
class Job:
    """One image and where its result goes.

    Attributes:
        image: The file.
        target: The result, without suffix.
    """

    image: Path
    target: Path


@dataclass
class Written:
    """What a prediction over files did.

    Attributes:
        done: Files that were written.
        kept: Files that an earlier prediction had written.
        failed: Reason by file that could not be segmented.
    """

    done: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def find_images(source: str) -> list[Path]:
    """Image files that a path, a folder (with its subfolders) or a glob names, sorted; a `.zarr` folder is an image.

    Raises:
        ValueError: If there is none.
    """
    path = Path(source)
    if path.is_dir() and path.suffix.lower() != ".zarr":
        found = [file for file in path.rglob("*") if _is_image(file, path)]
    elif path.exists():
        return [path]
    else:
        found = [Path(name) for name in glob.glob(source, recursive=True)]
        found = [one for one in found if one.is_file() or one.suffix.lower() == ".zarr"]
    if not found:
        what = "has no images" if path.is_dir() else "does not exist and matches no file"
        raise ValueError(f"{source} {what}; give an image, a folder of images or a quoted glob such as 'new/*.png'")
    return sorted(found)


def _is_image(file: Path, root: Path) -> bool:
    inside = file.relative_to(root)
    if file.suffix.lower() not in (*IMAGE_SUFFIXES, *RASTER_SUFFIXES) or file.name.startswith("."):
        return False
    return not any(parent.suffix.lower() == ".zarr" for parent in inside.parents)


def predict_files(
    segmenter: Predictor,
    images: Sequence[Path],
    out: Path,
    options: Options | None = None,
    *,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Written:
    """Segment files one after the other; a file that cannot be segmented is named and the others are done.

    A mask is an 8-bit gray PNG of class indices, of the size of the image as it is shown (EXIF orientation applied);
    that of a georeferenced TIFF is a TIFF with the same georeference. TIFF and Zarr images of more than 2^25 pixels are
    never in memory as a whole: their masks grow band by band and become TIFF or Zarr. `classes.json` beside them names
    the indices. Each file is written whole or not at all.

    Args:
        segmenter: From `segwright.load`.
        images: Files to segment.
        out: Folder to write to.
        options: What is written.
        resume: Go on with a prediction that was stopped: results that are there stay, and a large mask that was begun
            is continued.
        progress: Called with how many images, or which part of one, were done since the last call.

    Raises:
        ValueError: If a result would replace an image, or `resume` finds the results of something else.
        OSError: If the results cannot be written, for example on a full disk.
    """
    options = options or Options()
    jobs = begin(segmenter, images, out, options, resume=resume)
    written = Written()
    for job in jobs:
        if resume and (found := existing(job, options.output)) is not None:
            written.kept.append(found)
            _advance(progress, 1)
            continue
        try:
            written.done.append(predict_file(segmenter, job, options, resume=resume, progress=progress))
        except ValueError as error:
            written.failed[job.image] = str(error)
            _advance(progress, 1)
    return written


def begin(segmenter: Predictor, images: Sequence[Path], out: Path, options: Options, *, resume: bool) -> list[Job]:
    """What is to be done for each image; the folder then says what makes the results.

    Raises:
        ValueError: As `predict_files`.
    """
    jobs = [Job(image, out / stem) for image, stem in zip(images, _output_stems(images), strict=True)]
    originals = {image.resolve() for image in images}
    for job in jobs:
        for result in results_of(job, options.output):
            if result.resolve() in originals:
                raise ValueError(f"the result {result} would replace an image; give another folder with --out")
    made_by = _made_by(segmenter, options)
    file = out / MADE_BY
    if resume and file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("made_by") != made_by:
        raise ValueError(
            f"{out} holds results of another segmenter or with other options, so they cannot be completed; leave out "
            "--resume, or give another folder with --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    names = {"names": segmenter.classes.names, "colors": segmenter.classes.colors, "made_by": made_by}
    write_whole(file, json.dumps(names, indent=1).encode())
    return jobs


def _made_by(segmenter: Predictor, options: Options) -> dict[str, Any]:
    return {
        "segmenter": segmenter.key,
        "runtime": segmenter.runtime,
        "output": options.output,
        "augment": options.augment,
        "crf": options.crf.describe() if options.crf else None,
    }


def existing(job: Job, output: Output) -> Path | None:
    """The result of a job, if it is there and no older than the image."""
    for result in results_of(job, output):
        if result.exists() and result.stat().st_mtime >= job.image.stat().st_mtime:
            return result
    return None


def results_of(job: Job, output: Output) -> list[Path]:
    """Files that the result of a job may be, by the kind of the image."""
    # Path.with_suffix would cut names such as scan.v2; the suffix is appended instead.
    return [job.target.with_name(job.target.name + ending) for ending in _ENDINGS[output]]


def predict_file(
    segmenter: Predictor,
    job: Job,
    options: Options,
    *,
    resume: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Segment one file and write its result whole.

    Raises:
        ValueError: If the image cannot be read or does not fit the segmenter.
        OSError: If the result cannot be written.
    """
    image = job.image
    is_raster = image.suffix.lower() in RASTER_SUFFIXES
    job.target.parent.mkdir(parents=True, exist_ok=True)
    if is_raster and prod(raster_size(image)) > LARGE_PIXELS:
        return _predict_large(segmenter, job, options, resume=resume, progress=progress)
    pixels = _read_raster(segmenter, image) if _only_as_raster(image) else read_image(image)
    wants_probabilities = options.output == "probabilities"
    prediction = segmenter.predict(pixels, probabilities=wants_probabilities, augment=options.augment, crf=options.crf)
    tags = georeference(image) if options.output == "mask" and is_raster else []
    written = _write(job.target, pixels, prediction, segmenter, options.output, tags)
    _advance(progress, 1)
    return written


def _only_as_raster(image: Path) -> bool:
    return image.suffix.lower() in RASTER_SUFFIXES and image.suffix.lower() not in IMAGE_SUFFIXES


def _read_raster(segmenter: Predictor, image: Path) -> Image:
    with open_raster(image, segmenter.engine.description.in_channels) as raster:
        height, width, _ = raster.shape
        return raster[0:height, 0:width]


def _predict_large(
    segmenter: Predictor, job: Job, options: Options, *, resume: bool, progress: Callable[[float], None] | None
) -> Path:
    """Segment a file that is too large for the memory, band by band."""
    if options.output != "mask" or options.crf is not None:
        what = "a CRF" if options.output == "mask" else f"output {options.output}"
        raise UnreadableFileError(
            job.image, f"the image has more than {LARGE_PIXELS:,} pixels, too many for {what}; ask for the mask alone"
        )
    engine = add_views(segmenter.engine, options.augment)
    with open_raster(job.image, engine.description.in_channels) as raster:
        try:
            check_image(engine, raster)
        except ValueError as error:
            raise UnreadableFileError(job.image, str(error)) from None
        height, width, _ = raster.shape
        suffix = ".zarr" if job.image.suffix.lower() == ".zarr" else ".tif"
        stamp = job.image.stat()
        key = _made_by(segmenter, options) | {"image": str(job.image.resolve()), "changed": stamp.st_mtime_ns}
        target = job.target.with_name(job.target.name + suffix)
        mask = MaskFile.begin(target, (height, width), key=key, resume=resume)
        _advance(progress, mask.rows_done / height)
        for band in predict_bands(engine, raster, rows_done=mask.rows_done, folder=target.parent):
            mask.append(band.mask)
            _advance(progress, len(band.mask) / height)
    cleanup = engine.description.cleanup
    tidy = cleanup.apply if cleanup.describe() else None
    return mask.finish(georeference(job.image) if suffix == ".tif" else (), tidy)


def _advance(progress: Callable[[float], None] | None, by: float) -> None:
    if progress is not None:
        progress(by)


def _output_stems(images: Sequence[Path]) -> Iterator[Path]:
    """Where results go inside the folder: subfolders stay, and images that differ in their suffix only keep it."""
    parents = [str(image.parent.absolute()) for image in images]
    root = Path(os.path.commonpath(parents)) if parents else Path()
    stems = [image.absolute().relative_to(root).with_suffix("") for image in images]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    taken: dict[Path, Path] = {}
    for image, stem in zip(images, stems, strict=True):
        own = stem.with_name(image.name.replace(".", "_")) if stem in shared else stem
        while taken.setdefault(own, image) != image:
            own = own.with_name(own.name + "_2")
        yield own


def _write(
    path: Path, pixels: Image, prediction: Prediction, segmenter: Predictor, output: Output, tags: list[Tag]
) -> Path:
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
