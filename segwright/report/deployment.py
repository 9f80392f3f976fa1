"""Proofs of exports and tables of engines in the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from segwright.deployment.bench import Row
from segwright.deployment.export import Exported
from segwright.deployment.proof import Proof

SHOWN_LAYERS = 12


def render_proof(proof: Proof) -> RenderableType:
    """How the masks of an export compare with those of the segmenter."""
    table = Table.grid(padding=(0, 2))
    table.add_row("Proof", f"{proof.images} images against {proof.reference}")
    worst, needed = 100 * proof.equal_worst, 100 * proof.least_equal
    table.add_row("Equal pixels", f"{100 * proof.equal:.3f} % (worst image {worst:.3f} %; needed {needed:g} %)")
    if proof.delta_miou is not None:
        table.add_row("mIoU", f"{proof.reference_miou:.2f} → {proof.miou:.2f} ({proof.delta_miou:+.2f})")
    ratio = proof.reference_ms / proof.milliseconds
    table.add_row("Time", f"{proof.reference_ms:.0f} → {proof.milliseconds:.0f} ms an image ({ratio:.1f} x)")
    return table


def render_export(exported: Exported) -> RenderableType:
    """What was exported, and its proof."""
    parts: list[RenderableType] = [render_proof(exported.proof)]
    if exported.layers:
        parts += [Text(), _layers(exported)]
    return Group(*parts, Text(f"\nFile       {exported.file}"))


def _layers(exported: Exported) -> RenderableType:
    """The layers of an int8 export: how many, and those that it changes most."""
    whole = [layer for layer in exported.layers if layer["is_int8"]]
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("layer", "kind", "computes in"):
        table.add_column(column)
    table.add_column("harm", justify="right")
    known = [layer for layer in exported.layers if layer["harm"] is not None]
    for layer in sorted(known, key=lambda layer: -layer["harm"])[:SHOWN_LAYERS]:
        table.add_row(layer["name"], layer["kind"], "int8" if layer["is_int8"] else "float", f"{layer['harm']:.2g}")
    heading = (
        f"{len(whole)} of {len(exported.layers)} layers compute in int8; all are in engine.json, the most harmful:"
    )
    return Group(Text(heading), table)


def render_bench(rows: Sequence[Row]) -> RenderableType:
    """A row an engine; the fastest stands out."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("engine")
    for column in ("ms", "images/s", "x", "memory MB", "equal pixels", "Δ mIoU"):
        table.add_column(column, justify="right")
    times = [row.proof.milliseconds for row in rows if row.proof]
    for row in rows:
        if row.proof is None:
            table.add_row(row.name, Text(row.problem, style="red"))
            continue
        delta = row.proof.delta_miou
        table.add_row(
            row.name,
            f"{row.proof.milliseconds:.1f}",
            f"{1000 / row.proof.milliseconds:.1f}",
            f"{row.proof.reference_ms / row.proof.milliseconds:.1f}",
            f"{row.memory_mb:.0f}",
            f"{100 * row.proof.equal:.3f} %",
            "–" if delta is None else f"{delta:+.2f}",
            style="bold" if row.proof.milliseconds == min(times) else "",
        )
    return table
