"""Counts every network and writes the table that the package ships and the page `docs/networks.md`.

Run it after a network or `benchmarks/zoo.csv` changed: python docs/make_networks.py
"""

import csv
import json
from pathlib import Path

from segwright import parts
from segwright.catalog.card import measure, read_card
from segwright.catalog.table import TABLE, Row
from segwright.report.networks import LEGEND, SCORES, millions

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "benchmarks" / "zoo.csv"
TABLE_FILE = ROOT / "segwright" / "networks" / TABLE
PAGE_FILE = ROOT / "docs" / "networks.md"


def make_rows() -> list[Row]:
    """All networks, oldest first."""
    scores = read_scores()
    rows = [measure(name, scores.get(name)) for name in parts.list_parts("network")]
    return sorted(rows, key=lambda row: (row.paper.year, row.name))


def read_scores() -> dict[str, float]:
    """Our score of each network that finished in `benchmarks/zoo.csv`."""
    if not ZOO.exists():
        return {}
    with ZOO.open(encoding="utf-8") as file:
        return {row["network"]: float(row["val_miou"]) for row in csv.DictReader(file) if row["val_miou"]}


def make_table(rows: list[Row]) -> str:
    """The table as JSON."""
    return json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False) + "\n"


def make_page(rows: list[Row]) -> str:
    """The page for people."""
    lines = ["# Networks", "", "Written by `python docs/make_networks.py` from the files in `segwright/networks`.", ""]
    lines += ["`segwright train DATA network=NAME` trains one, `segwright networks NAME` shows it stage by stage.", ""]
    lines += [LEGEND, SCORES, ""]
    lines += ["| name | network | paper | parameters | GMACs | stride | mIoU |", "|---|---|---|--:|--:|--:|--:|"]
    for row in rows:
        miou = "" if row.miou is None else f"{row.miou:.1f}"
        paper = f"[{row.paper.venue} {row.paper.year}]({row.paper.url})"
        lines.append(
            f"| [`{row.name}`](#{row.name}) | {row.title} | {paper} | {millions(row.parameters)} | {row.gmacs:.1f} "
            f"| {row.stride} | {miou} |"
        )
    for row in rows:
        lines += make_section(row)
    return "\n".join(lines) + "\n"


def make_section(row: Row) -> list[str]:
    """What the page says of one network."""
    card = read_card(row.name)
    lines = ["", f"## {row.name}", "", card.summary, "", f"{card.paper.authors}, *{card.paper.title}*, "]
    lines[-1] += f"{card.paper.venue} {card.paper.year}, <{card.paper.url}>"
    if card.differs:
        lines += ["", "Differs from the paper:", *(f"- {point}" for point in card.differs)]
    else:
        lines += ["", "Differs from the paper in nothing."]
    lines += ["", "Variants: " + ", ".join(f"`{name}`" for name in card.variants) + "."]
    return lines


if __name__ == "__main__":
    table_rows = make_rows()
    TABLE_FILE.write_text(make_table(table_rows), encoding="utf-8")
    PAGE_FILE.write_text(make_page(table_rows), encoding="utf-8")
