"""Verbs that train."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segwright.commands.options import Data, Preset, progress_bar, recipe_of

if TYPE_CHECKING:
    from segwright.recipe import Recipe


def find_rate(
    data: Data,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, such as network=unet.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of the sweep, 20 or more.")] = 100,
) -> None:
    """Train with a growing learning rate for a few steps and suggest one (range test)."""
    from segwright.rate_sweep import sweep_rate
    from segwright.report.charts import number

    recipe = recipe_of(data, overrides or [], None)
    with progress_bar() as bar:
        task = bar.add_task("Sweeping", total=steps)
        sweep = sweep_rate(recipe, steps=steps, progress=lambda done: bar.update(task, completed=done))
    for index in range(0, len(sweep.rates), max(1, len(sweep.rates) // 20)):
        typer.echo(f"{number(sweep.rates[index]):>9}  {sweep.smoothed[index]:8.4f}")
    typer.echo(f"The loss falls fastest at optimizer.lr={sweep.suggestion:.2g}")


def train(
    source: Annotated[
        Path | None, typer.Argument(help="Folder with images and masks, or a recipe (.yaml).", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes of the recipe, such as network=unet optimizer.lr=0.01.", show_default=False),
    ] = None,
    preset: Preset = None,
    minutes: Annotated[float | None, typer.Option(help="Finish in this time, evaluation included.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a new one in runs/ by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    devices: Annotated[int | None, typer.Option(help="Processes that train together.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Train one segmenter a fold, score each image by the one that never saw it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
) -> None:
    """Train a segmenter, score it and write its report."""
    started = time.monotonic()
    from rich.console import Console

    given = {"minutes": minutes, "epochs": epochs, "steps": steps, "device": device, "devices": devices}
    given |= {"folds": folds, "seed": seed}
    changes = [*(overrides or []), *(f"train.{key}={value}" for key, value in given.items() if value is not None)]
    extra = [str(value) for value in (source, out, preset) if value is not None] + changes
    recipe, folder = _begin(source, changes, preset, out) if resume is None else _go_on(resume, extra)
    if recipe.train.folds is not None and recipe.train.fold is None:
        _cross_validate(recipe, folder, is_resumed=resume is not None, started=started)
        return
    # These load Fabric, seconds that a wrong recipe need not wait for.
    from segwright.report.run import write_run_report
    from segwright.run import train as train_recipe

    run = train_recipe(recipe, folder, resume=resume is not None, quiet=False, started=started)
    if not run.is_first:
        return
    if not run.is_finished:
        typer.echo(f"Stopped; go on with: segwright train --resume {run.folder}")
        raise typer.Exit(130)
    with Console().status("Writing the report"):
        page = write_run_report(run.folder)
    if run.best_miou >= 0:
        typer.echo(f"Best val mIoU {100 * run.best_miou:.1f}")
    typer.echo(f"Segmenter  {run.folder / 'segmenter'}")
    if page is not None:
        typer.echo(f"Report     {page}")


def _begin(source: Path | None, changes: list[str], preset: str | None, out: Path | None) -> "tuple[Recipe, Path]":
    """Recipe and folder of a new run."""
    from segwright.recipe import AUTO
    from segwright.run_folder import next_folder

    if source is None:
        raise ValueError("train needs a folder with images and masks, or a recipe, or --resume RUN")
    recipe = recipe_of(source, changes, preset)
    network, name = recipe.network["name"].rpartition(".")[2], Path(recipe.data).resolve().name
    return recipe, out or next_folder(Path("runs"), name if network == AUTO else f"{name}-{network}")


def _go_on(run: Path, extra: list[str]) -> "tuple[Recipe, Path]":
    """Recipe and folder of a run that has begun; nothing else may be asked for."""
    from segwright.recipe import load_recipe
    from segwright.run_folder import RECIPE

    if not (run / RECIPE).is_file():
        raise ValueError(f"{run} is not a run ({RECIPE} is missing); give the folder that train printed")
    if extra:
        raise ValueError(f"--resume goes on with the recipe in {run}; leave out {extra[0]}")
    return load_recipe(run / RECIPE), run


def _cross_validate(recipe: "Recipe", folder: Path, *, is_resumed: bool, started: float) -> None:
    from rich.console import Console

    from segwright.cross_validation import cross_validate
    from segwright.report.terminal import render_scores

    found = cross_validate(recipe, folder, resume=is_resumed, quiet=False, started=started)
    if found.evaluation is None:
        typer.echo(f"Stopped; go on with: segwright train --resume {folder}")
        raise typer.Exit(130)
    Console().print("", render_scores(found.evaluation))
    typer.echo(f"\nVal mIoU of the folds: {', '.join(f'{100 * miou:.1f}' for miou in found.fold_mious)}")
    typer.echo(f"Ensemble   {folder / 'segmenter'}")
