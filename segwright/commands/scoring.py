"""Verbs that judge: scores, comparisons, reports."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from segwright.commands.options import Augment, Crf, Data, Device, Precision, RunFolder, Split, progress_bar


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
    crf: Crf = False,
    runtime: Annotated[
        Literal["torch", "auto", "compile", "openvino", "onnxruntime", "tensorrt"] | None,
        typer.Option(help="Library that computes; that of an export, else PyTorch, which also scored the training."),
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the counts in the run's folder, for compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a segmenter on a data set; the protocol is printed with the scores."""
    from rich.console import Console

    from segwright.data.inspection import inspect as inspect_data
    from segwright.evaluation import evaluate as evaluate_segmenter
    from segwright.inference.crf import DenseCRF
    from segwright.inference.ensemble import ENSEMBLE
    from segwright.prediction import load
    from segwright.recipe import read_metrics
    from segwright.report.terminal import render_scores
    from segwright.run_folder import evaluation_file, kept_file
    from segwright.runtimes.folder import RECORD

    wanted = read_metrics(metrics, overrides or [])
    status = Console(stderr=True)
    with status.status("Loading the segmenter"):
        chosen = runtime or ("auto" if (run / RECORD).is_file() else "torch")
        segmenter = load(run, runtime=chosen, precision=precision, device=device)
    description = segmenter.engine.description
    with status.status("Reading the data"):
        fold = description.held_out(data)
        inspection = inspect_data(data, description.encoding, segmenter.classes, fold=fold)
    inspection.refuse_errors()
    if description.network == ENSEMBLE and fold is not None and split != "test":
        raise ValueError(
            f"the members of {run} trained on these images; {run / evaluation_file('val')} has the scores of each by "
            "the member that did not, which compare shows; evaluate on other data, or with --split test"
        )
    with progress_bar() as bar:
        task = bar.add_task("Evaluating", total=None)
        evaluation = evaluate_segmenter(
            segmenter,
            inspection.dataset,
            split,
            metrics=wanted,
            augment=augment,
            crf=DenseCRF() if crf else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if keep:
        evaluation.save(run / kept_file(split))
    if as_json:
        typer.echo(json.dumps(evaluation.scores(), indent=1))
    else:
        Console().print(render_scores(evaluation))
        typer.echo(f"Computed by {segmenter.runtime}")


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


def report(run: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]) -> None:
    """Write the report of a run again: one HTML file that needs nothing else."""
    from segwright.report.run import write_run_report

    typer.echo(write_run_report(run) or f"{run} had no validation images, so there is nothing to report")
