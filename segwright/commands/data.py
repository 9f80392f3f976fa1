"""Verbs about data: see it, plan with it, draw some."""

import json
from pathlib import Path
from typing import Annotated

import typer

from segwright.commands.options import Data, Preset, recipe_of


def inspect(
    data: Data,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a data set holds, how its masks are read, and every problem with its fix."""
    from rich.console import Console

    from segwright.data.inspection import inspect as inspect_data
    from segwright.report.inspection import render_inspection

    console = Console()
    with Console(stderr=True).status("Reading the data"):
        inspection = inspect_data(data)
    if as_json:
        typer.echo(json.dumps(inspection.to_json(), indent=1))
    else:
        console.print(render_inspection(inspection))
    if any(problem.severity == "error" for problem in inspection.problems):
        raise typer.Exit(1)


def plan(
    data: Annotated[Path, typer.Argument(help="Folder with images and masks, or a recipe.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Values that are given, such as network=unet; the rest is decided.", show_default=False),
    ] = None,
    preset: Preset = None,
    minutes: Annotated[float | None, typer.Option(help="Time that training may take.")] = None,
    out: Annotated[Path | None, typer.Option(help="File of the recipe; the data's name by default.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Decide how to train on a data set, say why, and write the recipe; train takes it."""
    from rich.console import Console

    from segwright.data.inspection import inspect as inspect_data
    from segwright.files import write_whole
    from segwright.planning.file import plan_to_yaml
    from segwright.planning.plan import complete
    from segwright.planning.probe import probe
    from segwright.report.plan import render_plan

    given = {"minutes": minutes, "device": device}
    changes = [*(overrides or []), *(f"train.{key}={value}" for key, value in given.items() if value is not None)]
    recipe, console = recipe_of(data, changes, preset), Console()
    file = out or Path(f"{Path(recipe.data).resolve().name}.yaml")
    if file.exists() or not file.parent.is_dir():
        reason = "exists already" if file.exists() else f"cannot be written, as {file.parent} is no folder"
        raise ValueError(f"{file} {reason}; give another file with --out")
    with Console(stderr=True).status("Reading the data"):
        inspection = inspect_data(Path(recipe.data), fold=recipe.train.held_out)
    inspection.refuse_errors()
    made = complete(recipe, inspection)
    with Console(stderr=True).status("Timing a few training steps"):
        pace = probe(made.recipe, inspection)
    heading = f"How to train on {recipe.data}: segwright train {file}\n{pace.describe()}"
    write_whole(file, plan_to_yaml(made, heading).encode())
    console.print(render_plan(made, pace))
    typer.echo(f"Recipe     {file}; train with: segwright train {file}")


def cells(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("cells"),
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Draw a small data set of stained cells to try things on."""
    from segwright.data.cells import write_cells

    write_cells(folder, seed=seed)
    typer.echo(f"Images and masks in {folder}; train on them with: segwright train {folder} --minutes 3")
