"""The table of networks in the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.catalog.table import NUM_CLASSES, SIDE, Row

LEGEND = (
    f"Parameters and billions of multiplications with addition (GMACs) with the defaults, 3 channels, {NUM_CLASSES} "
    f"classes, {SIDE} x {SIDE} pixels."
)
SCORES = (
    "mIoU: validation score in % on CamVid (11 classes) from scratch under one small equal budget on two CPU cores "
    "(benchmarks/zoo.csv); it says what a network reaches in minutes, not what it can reach."
)


def render_table(rows: Sequence[Row]) -> RenderableType:
    """All networks, oldest first."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for column in ("name", "year", "paper", "takes"):
        table.add_column(column, no_wrap=True)
    for column in ("params", "GMACs", "stride", "mIoU"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        miou = "" if row.miou is None else f"{row.miou:.1f}"
        numbers = millions(row.parameters), f"{row.gmacs:.1f}", str(row.stride), miou
        table.add_row(Text(row.name, style="bold"), str(row.paper.year), row.paper.venue, row.takes, *numbers)
    hint = "Take one by network=NAME; segwright networks NAME tells all about it."
    return Group(table, "", Text(f"{LEGEND} {SCORES}", style="dim"), "", hint)


def millions(count: int) -> str:
    """A count in millions; a small one as it is."""
    return f"{count / 1e6:.2f} M" if count >= 10_000 else str(count)
