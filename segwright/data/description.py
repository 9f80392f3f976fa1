"""Read dataset.yaml or data.yaml: names, colors, ignored values and where the parts lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segwright.data.colors import Color

FILE_NAMES = ("dataset.yaml", "dataset.yml", "data.yaml", "data.yml")
_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Description:
    """What a data set says about itself; everything may be missing.

    Attributes:
        file: Name of the file it came from, "" if there is none.
        names: Name by stored value; a list of names counts from 0.
        colors: RGB color by the same keys.
        ignore: Stored values, or keys of `names`, that are void.
        ignore_colors: RGB colors that are void.
        folders: Image folder of each split, relative to the root.
        masks_folder: Name that replaces the image folder's name in the path of the masks, "" for any usual name.
    """

    file: str = ""
    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, Color] = field(default_factory=dict)
    ignore: tuple[int, ...] = ()
    ignore_colors: tuple[Color, ...] = ()
    folders: dict[str, Path] = field(default_factory=dict)
    masks_folder: str = ""


def read_description(root: Path) -> Description:
    """Read the first of `FILE_NAMES` in a folder; an empty description if there is none.

    Keys: `names` (list, or mapping from stored value), `colors` (one RGB triple a name), `ignore` (value, list of
    values, or list of RGB triples), `path`, `train`, `val`, `test` (image folders), `masks_dir`. Others are left alone.

    Raises:
        ValueError: If the file is not YAML or a key does not hold what it should.
    """
    path = next((root / name for name in FILE_NAMES if (root / name).is_file()), None)
    if path is None:
        return Description()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML ({' '.join(str(error).split())}); correct it") from error
    if content is None:
        return Description(path.name)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise ValueError(f"{path} holds a {kind}, but keys such as names and ignore are needed; see the guide")
    names = {key: str(name) for key, name in _by_value(content.get("names", []), path, "names").items()}
    colors = {key: _color(value, path) for key, value in _by_value(content.get("colors", []), path, "colors").items()}
    if names and colors and names.keys() != colors.keys():
        raise ValueError(f"{path} has {len(names)} names and {len(colors)} colors; give one color a name")
    ignore, ignore_colors = _ignored(content.get("ignore", []), path)
    folders, masks_folder = _folders(content, root, path)
    return Description(path.name, names, colors, ignore, ignore_colors, folders, masks_folder)


def _by_value(content: object, path: Path, key: str) -> dict[int, Any]:
    if isinstance(content, list):
        return dict(enumerate(content))
    if isinstance(content, dict) and all(_is_integer(value) and 0 <= value <= 65535 for value in content):
        return dict(sorted(content.items()))
    raise ValueError(f"{path}: {key} is {content!r}, but a list, or a mapping from stored values from 0 on, is needed")


def _color(content: object, path: Path) -> Color:
    if isinstance(content, Sequence) and len(content) == 3 and all(_is_integer(part) for part in content):
        red, green, blue = content
        if all(part in range(256) for part in content):
            return (red, green, blue)
    raise ValueError(f"{path}: color {content!r} came, but three numbers from 0 to 255 are needed, as [128, 0, 64]")


def _ignored(content: object, path: Path) -> tuple[tuple[int, ...], tuple[Color, ...]]:
    entries = content if isinstance(content, list) else [] if content is None else [content]
    values = [entry for entry in entries if isinstance(entry, int) and not isinstance(entry, bool)]
    colors = [_color(entry, path) for entry in entries if isinstance(entry, list)]
    if len(values) + len(colors) != len(entries) or any(value not in range(65536) for value in values):
        raise ValueError(
            f"{path}: ignore is {content!r}, but a stored value from 0 to 65535, a list of them, "
            "or a list of RGB triples is needed"
        )
    return tuple(dict.fromkeys(values)), tuple(dict.fromkeys(colors))


def _folders(content: dict[str, Any], root: Path, path: Path) -> tuple[dict[str, Path], str]:
    base = Path(str(content.get("path") or ""))
    # Ultralytics writes `path` relative to a directory of its own; the folder that was given is then meant.
    base = base if (root / base).is_dir() else Path()
    folders: dict[str, Path] = {}
    for key, split in _SPLIT_KEYS.items():
        entry = content.get(key)
        if entry is None:
            continue
        if not isinstance(entry, str):
            raise ValueError(f"{path}: {key} is {entry!r}, but one image folder is needed, as images/{key}")
        if not (root / base / entry).is_dir():
            raise ValueError(f"{path}: {key} says {entry}, but {root / base} has no such folder; correct the path")
        folders[split] = base / entry
    return folders, str(content.get("masks_dir") or "")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
