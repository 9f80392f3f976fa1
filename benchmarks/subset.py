"""A copy of a data set by links with fewer validation images, so that a short run is not spent on its score."""

from pathlib import Path

from segwright.data.folder import find_pairs


def thin_out(data: Path, every: int, folder: Path) -> Path:
    """All training pairs, every n-th validation pair; the folder of the links."""
    for split, pairs in find_pairs(data).splits.items():
        for pair in pairs[:: every if split == "val" else 1]:
            for kind, file in (("images", pair.image), ("masks", pair.mask)):
                if file is not None:
                    link = folder / kind / split / file.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    if not link.exists():
                        link.symlink_to(file.resolve())
    description = data / "dataset.yaml"
    if description.is_file() and not (folder / description.name).exists():
        (folder / description.name).symlink_to(description.resolve())
    return folder
