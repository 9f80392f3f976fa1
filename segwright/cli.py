"""The command line: each verb imports what it needs, calls one function and prints."""

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from segwright.recipe import Recipe

app = typer.Typer(
    help="From a folder of images and masks to a trained, measured, deployed segmenter.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Data = Annotated[Path, typer.Argument(help="Folder with images and masks.", show_default=False)]
Precision = Annotated[Literal["auto", "bf16", "fp32"], typer.Option(help="auto: bf16 where the hardware has it.")]
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
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run or of a segmenter.", show_default=False)]


@app.command()
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


@app.command()
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
    recipe, console = _recipe_of(data, changes, preset), Console()
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


@app.command()
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

    recipe = _recipe_of(data, overrides or [], None)
    with _bar() as bar:
        task = bar.add_task("Sweeping", total=steps)
        sweep = sweep_rate(recipe, steps=steps, progress=lambda done: bar.update(task, completed=done))
    for index in range(0, len(sweep.rates), max(1, len(sweep.rates) // 20)):
        typer.echo(f"{number(sweep.rates[index]):>9}  {sweep.smoothed[index]:8.4f}")
    typer.echo(f"The loss falls fastest at optimizer.lr={sweep.suggestion:.2g}")


@app.command()
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
    recipe = _recipe_of(source, changes, preset)
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


@app.command()
def evaluate(
    run: RunFolder,
    data: Data,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Arguments of metrics, such as surface.tolerance=3.", show_default=False),
    ] = None,
    split: Split = "val",
    metrics: Annotated[
        str, typer.Option(help="Further metrics, separated by commas: boundary_iou, surface, …", show_default=False)
    ] = "",
    augment: Augment = "none",
    precision: Precision = "auto",
    device: Device = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the counts in the run's folder, for compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a segmenter on a data set; the protocol is printed with the scores."""
    from rich.console import Console

    from segwright.data.inspection import inspect as inspect_data
    from segwright.evaluation import evaluate as evaluate_segmenter
    from segwright.inference.ensemble import ENSEMBLE
    from segwright.prediction import load
    from segwright.recipe import read_metrics
    from segwright.report.terminal import render_scores
    from segwright.run_folder import evaluation_file, kept_file

    wanted = read_metrics(metrics, overrides or [])
    segmenter, status = load(run, device), Console(stderr=True)
    with status.status("Reading the data"):
        fold = segmenter.description.held_out(data)
        inspection = inspect_data(data, segmenter.description.encoding, segmenter.classes, fold=fold)
    inspection.refuse_errors()
    if segmenter.description.network == ENSEMBLE and fold is not None and split != "test":
        raise ValueError(
            f"the members of {run} trained on these images; {run / evaluation_file('val')} has the scores of each by "
            "the member that did not, which compare shows; evaluate on other data, or with --split test"
        )
    with _bar() as bar:
        task = bar.add_task("Evaluating", total=None)
        evaluation = evaluate_segmenter(
            segmenter,
            inspection.dataset,
            split,
            metrics=wanted,
            augment=augment,
            precision=precision,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if keep:
        evaluation.save(run / kept_file(split))
    if as_json:
        typer.echo(json.dumps(evaluation.scores(), indent=1))
    else:
        Console().print(render_scores(evaluation))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two or more runs.", show_default=False)],
    score: Annotated[
        str, typer.Option(help="What to compare by: miou, mean_dice, or a score of a metric that evaluate kept.")
    ] = "miou",
    split: Split = "val",
    out: Annotated[Path | None, typer.Option(help="Write a page too.", show_default=False)] = None,
) -> None:
    """Say which run is better on the same images, and whether that is more than chance."""
    from rich.console import Console

    from segwright.comparison import compare as compare_evaluations
    from segwright.comparison import load_evaluations
    from segwright.report.comparison import render_comparison, write_comparison

    comparison = compare_evaluations(load_evaluations(runs, split), score)
    Console().print(render_comparison(comparison))
    if out is not None:
        write_comparison(out, comparison)
        typer.echo(f"Page       {out}")


@app.command()
def predict(
    run: RunFolder,
    source: Annotated[str, typer.Argument(help="An image, a folder or a quoted glob.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    output: Annotated[
        Literal["mask", "overlay", "probabilities"],
        typer.Option(help="Masks of class indices (PNG), overlays (PNG) or probabilities (.npz)."),
    ] = "mask",
    augment: Augment = "none",
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Segment new images of any size."""
    from rich.console import Console

    from segwright.prediction import find_images, load, predict_files

    images = find_images(source)
    segmenter = load(run, device)
    with _bar() as bar:
        task = bar.add_task("Predicting", total=len(images))
        written = predict_files(
            segmenter,
            images,
            out,
            output=output,
            augment=augment,
            precision=precision,
            progress=lambda _: bar.advance(task),
        )
    console = Console(highlight=False, soft_wrap=True)
    if written.done:
        console.print(f"{len(written.done)} {output} file{'s' if len(written.done) > 1 else ''} in {out}")
    for file, reason in written.failed.items():
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            reason if str(file) in reason else f"{file}: {reason}"
        )
    if written.failed:
        raise typer.Exit(1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]) -> None:
    """Write the report of a run again: one HTML file that needs nothing else."""
    from segwright.report.run import write_run_report

    typer.echo(write_run_report(run) or f"{run} had no validation images, so there is nothing to report")


@app.command()
def networks(
    name: Annotated[
        str | None, typer.Argument(help="A network or a published variant; none lists all.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the networks with their papers and sizes, or tell all about one."""
    from rich.console import Console

    if name is None:
        from segwright.catalog.table import read_table
        from segwright.report.networks import render_table

        rows = read_table()
        if as_json:
            typer.echo(json.dumps([row.to_json() for row in rows], indent=1))
        else:
            Console(highlight=False).print(render_table(rows))
        return
    from segwright.catalog.card import read_card
    from segwright.report.network import render_card

    card = read_card(name)
    if as_json:
        typer.echo(json.dumps(card.to_json(), indent=1))
    else:
        Console(highlight=False).print(render_card(card))


@app.command()
def import_weights(
    file: Annotated[
        Path, typer.Argument(help="Weights of torchvision or segmentation_models_pytorch.", show_default=False)
    ],
    network: Annotated[
        str,
        typer.Argument(help="Network or variant that they are of; segwright networks lists them.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Arguments of the network, as key=value.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the segmenter.")] = Path("segmenter"),
    classes: Annotated[str, typer.Option(help="Names of the classes, separated by commas.", show_default=False)] = "",
) -> None:
    """Turn trained weights of another library into a segmenter."""
    from segwright.inference.foreign import import_segmenter
    from segwright.recipe import read_override

    if out.exists():
        raise ValueError(f"{out} exists already; give another folder with --out")
    pairs = (read_override(override) for override in overrides or [])
    arguments = {key.removeprefix("network."): value for key, value in pairs}
    names = [name.strip() for name in classes.split(",")] if classes else []
    segmenter = import_segmenter(file, network, arguments, class_names=names)
    segmenter.save(out)
    description = segmenter.description
    typer.echo(
        f"{out} holds {description.network} for {description.in_channels} channels and {len(description.classes)} "
        f"classes; use it with: segwright predict {out} IMAGES"
    )


@app.command()
def cells(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("cells"),
    seed: Annotated[int, typer.Option(help="Another seed draws other images.")] = 0,
) -> None:
    """Draw a small data set of stained cells to try things on."""
    from segwright.data.cells import write_cells

    write_cells(folder, seed=seed)
    typer.echo(f"Images and masks in {folder}; train on them with: segwright train {folder} --minutes 3")


def _recipe_of(source: Path, changes: list[str], preset: str | None) -> "Recipe":
    """The recipe in a file, or one for a data folder."""
    from segwright.planning.presets import PRESETS
    from segwright.recipe import load_recipe

    if source.suffix.lower() in (".yaml", ".yml"):
        if preset is not None:
            raise ValueError(f"--preset {preset} came with the recipe {source}; give a data folder, or leave it out")
        return load_recipe(source, changes)
    return load_recipe(None, changes, data=str(source), **(PRESETS[preset] if preset else {}))


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def main() -> None:
    """Run the command line: a user's mistake is one sentence and exit code 2, a failure of the machine code 1.

    With SEGWRIGHT_TRACEBACK=1 in the environment the traceback is shown too.
    """
    try:
        app()
    except ValueError as error:
        _fail(error, 2)
    except (OSError, RuntimeError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("SEGWRIGHT_TRACEBACK"):
        raise error
    sentence = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or "unknown").lower()
        sentence = (
            f"{error.filename or 'a file'} could not be written or read: {reason}; make room or choose another place"
        )
    typer.echo(f"Error: {sentence}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
