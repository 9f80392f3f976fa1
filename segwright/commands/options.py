"""Arguments and options that several verbs share, and what they show while they work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from segwright.recipe import Recipe

Data = Annotated[Path, typer.Argument(help="Folder with images and masks.", show_default=False)]
Precision = Annotated[Literal["auto", "bf16", "fp32"], typer.Option(help="auto: bf16 where the hardware has it.")]
Runtime = Annotated[
    Literal["auto", "torch", "compile", "openvino", "onnxruntime", "tensorrt"],
    typer.Option(help="Library that computes; auto: the fastest that is installed."),
]
Crf = Annotated[bool, typer.Option("--crf", help="Refine the masks by the colors of the image (dense CRF).")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU if there is one.")]
Augment = Annotated[
    Literal["none", "flip", "flips", "scales", "full"],
    typer.Option(
        help="Views to average: left and right exchanged (flip), all flips and turns, three scales, or six with flips."
    ),
]
Split = Annotated[Literal["train", "val", "test"], typer.Option(help="Part of the data set.")]
Preset = Annotated[
    Literal["medical", "driving", "inspection"] | None,
    typer.Option(help="Crop, batch, schedule and steps that a field is used to."),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, a segmenter or an export.", show_default=False)]


def recipe_of(source: Path, changes: list[str], preset: str | None) -> "Recipe":
    """The recipe in a file, or one for a data folder."""
    from segwright.planning.presets import PRESETS
    from segwright.recipe import load_recipe

    if source.suffix.lower() in (".yaml", ".yml"):
        if preset is not None:
            raise ValueError(f"--preset {preset} came with the recipe {source}; give a data folder, or leave it out")
        return load_recipe(source, changes)
    return load_recipe(None, changes, data=str(source), **(PRESETS[preset] if preset else {}))


def progress_bar() -> "Progress":
    """A bar on the terminal, which is gone when the work is done; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
