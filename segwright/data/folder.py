"""Find the images and masks of a plain folder, and read them as samples."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from segwright.data.description import Description, read_description
from segwright.data.encoding import MaskEncoding
from segwright.data.images import IMAGE_SUFFIXES, UnreadableFileError, read_image, read_stored_mask
from segwright.types import Classes, Sample

SPLITS = ("train", "val", "test")
VALIDATION_SHARE = 0.2
"""Share of the pairs that becomes the validation part of a folder without one."""
LAYOUTS = (
    "images/ beside masks/, alone or with train/ and val/ folders inside; train/ and val/ with images/ and masks/ "
    "inside; or x.png beside x_mask.png"
)

_SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_IMAGE_FOLDERS = ("images", "image", "imgs", "img")
_MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "ground_truth", "groundtruth",
    "segmentations", "segmentation", "targets", "target",
)  # fmt: skip
_IMAGE_WORDS = ("image", "img", "im")
_MASK_WORDS = ("mask", "label", "labels", "seg", "segmentation", "gt", "annotation")


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        name: Path of the image inside its folder, without the suffix.
        image: File.
        mask: File, None if there is none.
    """

    name: str
    image: Path
    mask: Path | None


@dataclass(frozen=True)
class Folder:
    """What lies in a folder, before any file has been read.

    Attributes:
        root: The folder.
        layout: One sentence on how images and masks lie.
        splits: Pairs by split, sorted by name; only splits that have pairs.
        description: What dataset.yaml says.
        unpaired: Images without a mask and masks without an image; folders, if a whole split has no masks.
        ambiguous: Groups of files that claim the same name; none of them is in a pair.
    """

    root: Path
    layout: str
    splits: dict[str, tuple[Pair, ...]]
    description: Description = field(default_factory=Description)
    unpaired: tuple[Path, ...] = ()
    ambiguous: tuple[tuple[Path, ...], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Pairs that have been checked, and all that is needed to read them.

    Attributes:
        root: The folder.
        layout: One sentence on how images and masks lie.
        classes: Names and colors; None if there are no masks or they cannot be understood.
        encoding: How masks store classes; None in the same cases.
        splits: Pairs by split.
        channels: Channels of every image, 0 if unknown.
    """

    root: Path
    layout: str
    classes: Classes | None
    encoding: MaskEncoding | None
    splits: dict[str, tuple[Pair, ...]]
    channels: int = 0

    def read(self, pair: Pair) -> Sample:
        """Read one pair.

        Raises:
            ValueError: If a file is damaged, the channels are not those of the data set, the sizes of image and mask
                differ, or the mask holds a value of no class.
        """
        image = read_image(pair.image)
        height, width, channels = image.shape
        if self.channels and channels != self.channels:
            raise UnreadableFileError(
                pair.image,
                f"the image has a channel count of {channels}, but the data set has {self.channels}; convert it",
            )
        if pair.mask is None:
            return Sample(pair.name, image, None)
        if self.encoding is None:
            raise ValueError(f"{self.root} has masks that were not understood; run segwright inspect to see why")
        stored, _ = read_stored_mask(pair.mask)
        if stored.shape[:2] != (height, width):
            raise UnreadableFileError(pair.mask, size_mismatch((height, width), (stored.shape[0], stored.shape[1])))
        try:
            return Sample(pair.name, image, self.encoding.decode(stored))
        except ValueError as error:
            raise UnreadableFileError(pair.mask, str(error)) from error


def size_mismatch(image_size: tuple[int, int], mask_size: tuple[int, int]) -> str:
    """The sentence for an image and a mask of different (height, width)."""
    image, mask = (f"{height} x {width}" for height, width in (image_size, mask_size))
    return f"the mask is {mask}, but its image is {image} (height x width); export the mask at the size of the image"


def find_pairs(root: Path) -> Folder:
    """Find out how a folder lays out images and masks, with no configuration.

    Understood are, in this order: folders named by `train`, `val`, `test` in dataset.yaml; images/ and masks/ (also
    img, labels, annotations, gt, ...) with train, val and test inside; train, val and test with such folders, or with
    x.png beside x_mask.png, inside; images/ and masks/ without splits; x.png beside x_mask.png; images alone.
    Without a val folder, a fifth of the pairs is taken by the hash of the name, the same on every machine.

    Raises:
        ValueError: If the folder is missing, empty, or holds no pair.
    """
    root = Path(root)
    _check_root(root)
    description = read_description(root)
    parts, layout = _find_parts(root, description)
    if not parts:
        return replace(_only_images(root), description=description)
    splits: dict[str, tuple[Pair, ...]] = {}
    unpaired: list[Path] = []
    ambiguous: list[tuple[Path, ...]] = []
    for split, (image_folder, mask_folder) in parts.items():
        if mask_folder is None:
            unpaired.append(image_folder)
            continue
        pairs, lonely, claimed = _pair_up(image_folder, mask_folder)
        splits[split] = (*splits.get(split, ()), *pairs)
        unpaired += lonely
        ambiguous += claimed
    splits = {split: splits[split] for split in SPLITS if splits.get(split)}
    if not splits:
        found = (
            ", ".join(sorted({str(path).removeprefix(f"{root}/") for path in unpaired})[:5]) or "only files of one name"
        )
        raise ValueError(f"{root} has no image with a mask of the same name ({found} …); give both the same name")
    if "train" in splits and "val" not in splits:
        layout += "; a fifth of the training pairs, chosen by name, is for validation"
        splits = _split_off_validation(splits)
    return Folder(root, layout, splits, description, tuple(unpaired), tuple(ambiguous))


def _check_root(root: Path) -> None:
    if not root.exists():
        raise ValueError(f"{root} does not exist, but a folder with images and masks is needed; check the path")
    if not root.is_dir():
        raise ValueError(
            f"{root} is a file, but a folder with images and masks is needed; give the folder that holds it"
        )
    if not any(root.iterdir()):
        raise ValueError(f"{root} is empty, but images and masks are needed; put them as {LAYOUTS}")


def _find_parts(root: Path, description: Description) -> tuple[dict[str, tuple[Path, Path | None]], str]:
    """Image folder and mask folder of each split, and a sentence; the same folder twice if suffixes tell them apart."""
    if description.folders:
        parts = {
            split: (root / folder, _mask_folder_for(root / folder, description.masks_folder))
            for split, folder in description.folders.items()
        }
        return parts, f"folders as {description.file} says"
    folders = _subfolders(root)
    images, masks = _pick(folders, _IMAGE_FOLDERS), _pick(folders, _MASK_FOLDERS)
    if images is not None and masks is not None:
        inside, mask_inside = _split_folders(images), _split_folders(masks)
        if inside:
            parts = {split: (folder, mask_inside.get(split)) for split, folder in inside.items()}
            return parts, f"{images.name}/ beside {masks.name}/, both with {', '.join(inside)} inside"
        return {"train": (images, masks)}, f"{images.name}/ beside {masks.name}/ without splits"
    parts = {}
    for split, folder in _split_folders(root).items():
        below = _subfolders(folder)
        images, masks = _pick(below, _IMAGE_FOLDERS), _pick(below, _MASK_FOLDERS)
        parts[split] = (images, masks) if images is not None else (folder, folder)
    if parts:
        return parts, f"{', '.join(parts)}, each with its images and masks"
    files = _images_in(root)
    if 0 < len(_masks_among(files)) < len(files):
        return {"train": (root, root)}, "images and masks in one folder, told apart by their names, without splits"
    return {}, ""


def _only_images(root: Path) -> Folder:
    folders = _subfolders(root)
    source = root if _images_in(root) else _pick(folders, _IMAGE_FOLDERS)
    if source is None:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:8])
        raise ValueError(f"{root} holds {found}, in which no images and masks were found; put them as {LAYOUTS}")
    images = _images_in(source) if source == root else _images_below(source)
    pairs = tuple(Pair(_key(path, source), path, None) for path in images)
    if not pairs:
        raise ValueError(f"{source} holds no image of type {', '.join(IMAGE_SUFFIXES)}; put the images there")
    return Folder(root, "images without masks", {"test": pairs})


def _pair_up(image_folder: Path, mask_folder: Path) -> tuple[list[Pair], list[Path], list[tuple[Path, ...]]]:
    """Pairs, files without partner, and groups of files with the same name."""
    if image_folder == mask_folder:
        files = _images_in(image_folder)
        masks = _masks_among(files)
        images = [path for path in files if path not in set(masks)]
    else:
        images, masks = _images_below(image_folder), _images_below(mask_folder)
    by_name, same_images = _by_name(images, image_folder, words=())
    exact, same_masks = _by_name(masks, mask_folder, words=())
    taken = {key for key in exact if key in by_name}
    # Suffixes count only for masks that no image matches as they are.
    short, same_short = _by_name([exact[key] for key in exact if key not in taken], mask_folder, words=_MASK_WORDS)
    pairs, lonely = [], []
    for key, image in by_name.items():
        bare = _strip(key, _IMAGE_WORDS)
        mask = exact.get(key) or short.get(key) or short.get(bare) or (exact.get(bare) if bare not in by_name else None)
        if mask is None:
            lonely.append(image)
        else:
            pairs.append(Pair(key, image, mask))
    groups = same_images + same_masks + same_short
    used = {pair.mask for pair in pairs}
    claimed = {path for group in groups for path in group}
    claimed_names = {_key(group[0], image_folder) for group in same_images}
    lonely += [
        path
        for path in masks
        if path not in used | claimed and _strip(_key(path, mask_folder), _MASK_WORDS) not in claimed_names
    ]
    return pairs, lonely, groups


def _by_name(
    paths: Sequence[Path], folder: Path, *, words: tuple[str, ...]
) -> tuple[dict[str, Path], list[tuple[Path, ...]]]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_strip(_key(path, folder), words), []).append(path)
    single = {key: group[0] for key, group in groups.items() if len(group) == 1}
    return single, [tuple(group) for group in groups.values() if len(group) > 1]


def _split_off_validation(splits: dict[str, tuple[Pair, ...]]) -> dict[str, tuple[Pair, ...]]:
    pairs = sorted(splits["train"], key=lambda pair: hashlib.sha1(Path(pair.name).name.encode()).hexdigest())
    if len(pairs) < 2:
        return splits
    count = max(1, round(VALIDATION_SHARE * len(pairs)))
    chosen = {"train": pairs[count:], "val": pairs[:count]}
    sorted_pairs = {split: tuple(sorted(group, key=lambda pair: pair.name)) for split, group in chosen.items()}
    return {split: {**splits, **sorted_pairs}[split] for split in SPLITS if split in {**splits, **sorted_pairs}}


def _mask_folder_for(image_folder: Path, name: str) -> Path | None:
    """The folder of the masks: the image folder's path with one part renamed, or a sibling."""
    names = (name,) if name else _MASK_FOLDERS
    for position in reversed(range(len(image_folder.parts))):
        if image_folder.parts[position].lower() in _IMAGE_FOLDERS:
            for candidate in names:
                path = Path(*image_folder.parts[:position], candidate, *image_folder.parts[position + 1 :])
                if path.is_dir():
                    return path
    return image_folder if _masks_among(_images_in(image_folder)) else None


def _strip(key: str, words: tuple[str, ...]) -> str:
    """A key without a word such as mask before or after it: a_mask, a-mask and mask_a give a."""
    parent, slash, stem = key.rpartition("/")
    for word in words:
        if stem.lower().endswith(("_" + word, "-" + word)) and len(stem) > len(word) + 1:
            return parent + slash + stem[: -len(word) - 1]
    for word in words:
        if stem.lower().startswith((word + "_", word + "-")) and len(stem) > len(word) + 1:
            return parent + slash + stem[len(word) + 1 :]
    return key


def _masks_among(files: Sequence[Path]) -> list[Path]:
    """Files of a folder that are masks by their names; a word before the name counts only if none has one after it."""
    marked = [path for path in files if _strip(path.stem, _MASK_WORDS) != path.stem]
    ends = tuple(mark + word for mark in "_-" for word in _MASK_WORDS)
    return [path for path in marked if path.stem.lower().endswith(ends)] or marked


def _key(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_image(path))


def _images_below(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*") if _is_image(path))
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _subfolders(folder: Path) -> dict[str, Path]:
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name.lower(): path for path in found}


def _pick(folders: dict[str, Path], names: tuple[str, ...]) -> Path | None:
    return next((folders[name] for name in names if name in folders and _images_below(folders[name])), None)


def _split_folders(folder: Path) -> dict[str, Path]:
    found = {_SPLIT_NAMES[name]: path for name, path in _subfolders(folder).items() if name in _SPLIT_NAMES}
    return {split: found[split] for split in SPLITS if split in found}
