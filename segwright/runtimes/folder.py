"""A segmenter in the form of one engine, as a folder: the network's file, the description, and what made it."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from segwright.files import write_whole
from segwright.inference.description import DESCRIPTION, WEIGHTS, Description, find_segmenter, read_description

RECORD = "engine.json"
FORMAT = 1

Runtime = Literal["torch", "openvino", "onnxruntime", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine's file; `engine.json` holds it.

    Attributes:
        runtime: Library that runs it.
        precision: Number format of the network inside.
        file: Name of the file in the folder.
        stride: Grid that tiles start on.
        margin: Context that a pixel needs, or 0; see `Engine`.
        segmenter: Key of the segmenter that it was made from, which `segmenter_key` gives.
        versions: Of the libraries that made it.
        proof: How its masks were compared with those of the segmenter; empty if they were not.
    """

    runtime: Runtime
    precision: Precision
    file: str
    stride: int
    margin: int
    segmenter: str
    versions: dict[str, str] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)


def write_record(folder: Path, record: EngineRecord, description: Description) -> None:
    """Make a folder that holds an engine's file one that can be opened; the record comes last."""
    write_whole(folder / DESCRIPTION, json.dumps(description.to_dict(), indent=1).encode())
    write_whole(folder / RECORD, json.dumps({"format": FORMAT} | asdict(record), indent=1).encode())


def read_record(folder: Path) -> tuple[EngineRecord, Description]:
    """Record and description of an engine's folder.

    Raises:
        ValueError: If one of them is damaged or of another version, or the file is missing.
    """
    try:
        values = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if values.pop("format", None) != FORMAT:
            raise ValueError(f"{folder / RECORD} is of another version of segwright; export the segmenter again")
        record = EngineRecord(**values)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error}); export the segmenter again") from None
    if not (folder / record.file).is_file():
        raise ValueError(f"{folder} lacks {record.file}; copy the whole folder, or export the segmenter again")
    return record, read_description(folder)


def segmenter_key(folder: Path) -> str:
    """A key of what a segmenter computes: a hash of its weights and of all that its description says of them.

    Scores and the recipe do not change what it computes.
    """
    digest = hashlib.sha256()
    with (folder / WEIGHTS).open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    values = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    digest.update(json.dumps({key: values[key] for key in sorted(values) if key not in ("scores", "recipe")}).encode())
    return digest.hexdigest()[:16]


def predictor_key(folder: Path) -> str:
    """The key of the segmenter in a folder of its own, of a run, or of an export."""
    if (folder / RECORD).is_file():
        record, _ = read_record(folder)
        return record.segmenter
    return segmenter_key(find_segmenter(folder))


def kept_folder(segmenter: Path, runtime: Runtime) -> Path | None:
    """Where the engine of a segmenter is kept; None if there is none yet."""
    name = f"{runtime}-{segmenter_key(segmenter)}"
    places = (parent / name for parent in (segmenter / "engines", user_folder()))
    return next((place for place in places if (place / RECORD).is_file()), None)


def user_folder() -> Path:
    """Where engines of segmenters are kept whose own folder cannot be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "segwright" / "kept-engines"
