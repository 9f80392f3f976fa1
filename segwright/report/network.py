"""All about one network in the terminal."""

import inspect
import re

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from segwright.catalog.card import Card, Stage
from segwright.report.networks import millions
from segwright.types import Paper


def render_card(card: Card) -> RenderableType:
    """All about one network."""
    shown: list[RenderableType] = [Text(card.title, style="bold"), Text(card.summary), ""]
    shown += [Text(str(card.paper), style="dim"), "", _heading(f"Stages, for {_size(card.input_shape)}"), _stages(card)]
    shown += ["", _heading("Arguments"), _arguments(card), "", _heading("Differs from the paper")]
    shown += [Padding(Text(f"- {point}"), (0, 0, 0, 2)) for point in card.differs] or [Text("  Nothing.")]
    if card.variants:
        shown += ["", _heading("Published variants"), _variants(card)]
    return Group(*shown, "", _heading("To cite"), Text(bibtex(card.paper)))


def _heading(text: str) -> Text:
    return Text(text, style="bold cyan")


def _stages(card: Card) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", style="dim")
    for stage in card.stages:
        table.add_row("↓", stage.name, Text(stage.kind, style="dim"), _shapes(stage), millions(stage.parameters))
    return table


def _shapes(stage: Stage) -> str:
    return ", ".join(_size(shape) for shape in stage.shapes)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)


def _arguments(card: Card) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for argument in card.arguments:
        value = "required" if argument.default is inspect.Parameter.empty else f"{argument.default!r}"
        table.add_row(f"  {argument.name}", Text(value, style="bold"), argument.description)
    return table


def _variants(card: Card) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, arguments in card.variants.items():
        settings = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        table.add_row(f"  {name}", Text(settings or "the defaults", style="dim"))
    return table


def bibtex(paper: Paper) -> str:
    """A BibTeX entry."""
    first = re.split(r",| and | et al", paper.authors)[0]
    word = next(word for word in re.findall(r"[A-Za-z0-9]+", paper.title) if len(word) > 2)
    authors = re.sub(r" et al\.?$", " and others", paper.authors).replace(", ", " and ")
    key = "".join(letter for letter in first.lower() if letter.isalnum()) + f"{paper.year}{word.lower()}"
    lines = [
        f"@misc{{{key},",
        f"  author = {{{authors}}},",
        f"  title = {{{paper.title}}},",
        f"  howpublished = {{{paper.venue}}},",
        f"  year = {{{paper.year}}},",
        f"  url = {{{paper.url}}},",
        "}",
    ]
    return "\n".join(lines)
