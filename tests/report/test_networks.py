"""Tests of the table of networks and of the card of one."""

import io

import pytest
from rich.console import Console

from segwright.catalog.card import read_card
from segwright.catalog.table import read_table
from segwright.report.network import bibtex, render_card
from segwright.report.networks import render_table
from segwright.types import Paper


def text(renderable: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_every_network_is_in_the_table_with_its_numbers(width: int) -> None:
    shown = text(render_table(read_table()), width)
    for row in read_table():
        line = next(line for line in shown.splitlines() if line.startswith(f"{row.name} "))
        assert f"{row.gmacs:.1f}" in line
    assert all(len(line) <= width for line in shown.splitlines())


def test_a_card_shows_stages_arguments_differences_and_the_citation() -> None:
    shown = text(render_card(read_card("unet")))
    for part in ("decoder.4", "16 x 512 x 512", "decoder_channels", "convolutions are padded", "@misc{ronneberger2015"):
        assert part in shown


def test_a_citation_joins_authors_as_bibtex_wants_it() -> None:
    paper = Paper("Hong, Pan and Jia", "A Net", "CVPR", 2021, "https://example.org")
    assert "author = {Hong and Pan and Jia}" in bibtex(paper)
    assert bibtex(paper).startswith("@misc{hong2021net,")
    many = Paper("Yu et al.", "BiSeNet", "ECCV", 2018, "https://example.org")
    assert "author = {Yu and others}" in bibtex(many)
