"""Verbs that use a segmenter, and bring it to other engines."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from segwright.commands.options import Augment, Crf, Device, Precision, RunFolder, Runtime, progress_bar


def predict(
    run: RunFolder,
    source: Annotated[str, typer.Argument(help="An image, a folder or a quoted glob.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("predictions"),
    output: Annotated[
        Literal["mask", "overlay", "probabilities"],
        typer.Option(help="Masks of class indices (PNG), overlays (PNG) or probabilities (.npz)."),
    ] = "mask",
    augment: Augment = "none",
    crf: Crf = False,
    runtime: Runtime = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the images.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped; keep what is done.")] = False,
) -> None:
    """Segment new images of any size."""
    from rich.console import Console

    from segwright.inference.crf import DenseCRF
    from segwright.prediction import Options, find_images, load, predict_files
    from segwright.sharing import predict_shared

    images = find_images(source)
    options = Options(output, augment, DenseCRF() if crf else None)
    with Console(stderr=True).status("Loading the segmenter"):
        segmenter = load(run, runtime=runtime, precision=precision, device=device)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Runtime    {segmenter.runtime}", markup=False)
    with progress_bar() as bar:
        task = bar.add_task("Predicting", total=len(images))
        work = partial(predict_files, segmenter)
        if workers > 1:
            loading = {"runtime": runtime, "precision": precision, "device": device}
            work = partial(predict_shared, segmenter, run, loading, workers=workers)
        try:
            written = work(images=images, out=out, options=options, resume=resume, progress=partial(bar.advance, task))
        except KeyboardInterrupt:
            bar.stop()
            typer.echo("Stopped; what is done is kept, and the same command with --resume goes on")
            raise typer.Exit(130) from None
    if written.done:
        console.print(f"{len(written.done)} {output} file{'s' if len(written.done) > 1 else ''} in {out}")
    if written.kept:
        console.print(f"{len(written.kept)} were there already")
    for file, reason in written.failed.items():
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            reason if str(file) in reason else f"{file}: {reason}", markup=False
        )
    if written.failed:
        raise typer.Exit(1)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of a segmenter.", show_default=False)],
    to: Annotated[
        Literal["onnx", "openvino", "tensorrt", "torch", "triton"],
        typer.Option(help="Engine; triton is a model repository of Triton Inference Server."),
    ] = "onnx",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16", "int8"] | None, typer.Option(help="Number format; fp32 by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; beside the segmenter by default.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Images, with masks or without, of the proof; the training data by default."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of the proof at most.")] = 32,
) -> None:
    """Write a segmenter for another engine, if its masks are proved to be the same."""
    from rich.console import Console

    from segwright.deployment.export import PRECISIONS, ExportRefusedError
    from segwright.deployment.export import export as export_segmenter
    from segwright.report.deployment import render_export, render_proof

    place = out or run / f"{to}-{precision or PRECISIONS[to][0]}"
    with Console(stderr=True).status("Loading the segmenter") as status:
        try:
            exported = export_segmenter(
                run, place, to=to, precision=precision, data=data, images=images, progress=status.update
            )
        except ExportRefusedError as error:
            status.stop()
            Console().print(render_proof(error.proof))
            raise
    Console(highlight=False).print(render_export(exported))
    typer.echo(f"Use it     segwright predict {place} IMAGES")


def bench(
    run: Annotated[Path, typer.Argument(help="Folder of a run or of a segmenter.", show_default=False)],
    exports: Annotated[
        list[Path] | None, typer.Argument(help="Folders of exports to measure too.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Images, with masks or without; the training data by default.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Images at most.")] = 16,
    device: Device = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="PyTorch compiled too: up to a minute for each size of images.")
    ] = False,
) -> None:
    """Time a segmenter on every engine that is installed, and compare the masks."""
    from rich.console import Console

    from segwright.deployment.bench import bench as bench_segmenter
    from segwright.report.deployment import render_bench

    with Console(stderr=True).status("Reading images") as status:
        rows = bench_segmenter(
            run, exports or (), data=data, images=images, device=device, compiled=compiled, progress=status.update
        )
    Console(highlight=False).print(render_bench(rows))
