"""Verbs about networks and their weights."""

import json
from pathlib import Path
from typing import Annotated

import typer


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
